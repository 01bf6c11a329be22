"""The claims of a run of `flatmin verify-theory` as a Markdown table, for docs/ledger.md: `ledger_table.py RUN`."""

import re
import sys

from flatmin.experiments import load_run

print("| statement | source | what is claimed | instances | measured |\n| --- | --- | --- | --- | --- |")
for claim in load_run(sys.argv[1]).claims:
    statement = claim.statement.split(" Assumes: ")[0].replace("|", "\\|")
    count = re.search(r"([\d,]+) instances", claim.note)
    error = re.search(r"largest relative error ([^;]+)", claim.note)
    measured = f"relative error {error[1]}" if error else claim.measured_text
    mark = "" if claim.holds else " **fails**"
    print(f"| `{claim.name}`{mark} | {claim.source} | {statement} | {count[1] if count else ''} | {measured} |")
