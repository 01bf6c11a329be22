"""Change one thing in the code at a time and see whether the default suite says so: `make mutants`.

Changes are drawn with a fixed seed, in equal shares over rooms and kinds, by their names rather than by lines, so that
most stay the same when code moves. Each runs in a copy of the checkout, against the test files that answer for its room
(plan.toml), up to the first failure. Results are kept, one line a change: a run that is stopped goes on where it was,
and what is unchanged (file and tests) is not run again.
"""

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator

from kinds import Mutation, find_mutations, is_change

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAN = tomllib.loads(pathlib.Path(__file__).with_name("plan.toml").read_text())
PACKAGE = "src/flatmin"
PATIENCE = 4.0
"""A change may take so many times the seconds of the unchanged code before it counts as a hang, which is a kill."""


def known() -> Iterator[Mutation]:
    """The listed changes whose text is still there, whatever the white space between its words."""
    for entry in PLAN["known"]:
        path = ROOT / PACKAGE / entry["file"]
        source = path.read_bytes() if path.exists() else b""
        pattern = rb"\s+".join(re.escape(word.encode()) for word in entry["old"].split())
        if match := re.search(pattern, source):
            place, old = f"{PACKAGE}/{entry['file']}", match.group().decode()
            broken = re.search(r":\n\s*", old)  # a statement's body on a line of its own stays there
            new = re.sub(r":\s+", broken.group(), entry["new"], count=1) if broken else entry["new"]
            yield Mutation(place, "known", "", match.start(), match.end(), old, new)


def drawn(count: int, seed: int) -> list[Mutation]:
    """So many changes, dealt in turn over rooms and kinds, each pile in an order that the seed and the names decide."""
    piles = defaultdict(list)
    for room in PLAN["rooms"]:
        for path in sorted((ROOT / PACKAGE / room).rglob("*.py")):
            for mutation in find_mutations(ROOT, str(path.relative_to(ROOT))):
                piles[mutation.kind, room].append(mutation)
    for pile in piles.values():
        pile.sort(key=lambda m: hashlib.sha256(f"{seed} {m.name}".encode()).digest())
    rounds = itertools.zip_longest(*(piles[place] for place in sorted(piles)))
    dealt = {mutation.name: mutation for turn in rounds for mutation in turn if mutation}
    return list(itertools.islice((mutation for mutation in dealt.values() if is_change(ROOT, mutation)), count))


def room_of(mutation: Mutation) -> str:
    """The folder under the package."""
    return pathlib.PurePath(mutation.file).relative_to(PACKAGE).parts[0]


def tests_of(mutation: Mutation) -> list[pathlib.Path]:
    """The test files of its room; those that name its function, class or module first, the shorter the earlier."""
    files = [ROOT / f"tests/test_{name}.py" for name in PLAN["rooms"][room_of(mutation)]]
    words = {word.strip("_") for word in [*mutation.scope.split("."), pathlib.PurePath(mutation.file).stem]} - {""}
    asked = re.compile(r"\b_?(" + "|".join(map(re.escape, sorted(words))) + r")\b")

    def rank(path: pathlib.Path) -> tuple[int, int]:
        text = path.read_text()
        return -len(set(asked.findall(text))), len(text)

    return sorted((path for path in files if path.exists()), key=rank)


class Slot:
    """A copy of the tracked files, in which one change at a time is tried."""

    def __init__(self, folder: pathlib.Path, cache: pathlib.Path):
        self.folder, self.cache = folder, cache
        for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def run(self, tests: list[pathlib.Path], seconds: float) -> tuple[str, str, float]:
        """`passed`, `failed` or `hung`, the first test that failed, and how long it took."""
        files = [str(path.relative_to(ROOT)) for path in tests]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *files]
        environment = os.environ | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(self.folder / "src"),
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "FLATMIN_CACHE": "off",
        }
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return "hung", "", time.monotonic() - began
        first = re.search(r"^(?:FAILED|ERROR) (\S+)", out, re.MULTILINE)
        word = "passed" if process.returncode == 0 else "failed"
        return word, first[1] if first else out.strip()[-200:], time.monotonic() - began

    def try_change(self, mutation: Mutation, tests: list[pathlib.Path], seconds: float) -> tuple[str, str, float]:
        """The same with the change; the file is put back."""
        path = self.folder / mutation.file
        source = path.read_bytes()
        try:
            path.write_bytes(mutation.apply(source))
            return self.run(tests, seconds)
        finally:
            path.write_bytes(source)


def state_of(mutation: Mutation, tests: list[pathlib.Path]) -> str:
    """What a result holds for: the changed file and its tests, as they are."""
    digest = hashlib.sha256(mutation.name.encode())
    for path in [ROOT / mutation.file, *sorted(tests)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def report(results: list[dict], missing: int) -> str:
    """Rate by room and kind, and who lives."""
    killed = Counter(r["room"] for r in results if r["outcome"] != "passed")
    kinds = Counter(r["kind"] for r in results if r["outcome"] != "passed")
    lines = [f"{sum(killed.values())} of {len(results)} killed ({sum(killed.values()) / max(len(results), 1):.0%})"]
    if missing:
        lines[0] += f"; {missing} not run yet"
    for title, counts in (("room", killed), ("kind", kinds)):
        totals = Counter(r[title] for r in results)
        lines.append(f"by {title}: " + ", ".join(f"{key} {counts[key]}/{totals[key]}" for key in sorted(totals)))
    lines += [
        f"lives: {r['file']}:{r['line']} [{r['kind']}] {r['old']!r} -> {r['new']!r}"
        for r in results
        if r["outcome"] == "passed"
    ]
    return "\n".join(lines)


def main() -> int:
    """Draw, run what has no result yet, report; 1 where fewer are killed than asked for."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=180, help="changes drawn, besides the listed ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / ".mutants", help="where results are kept")
    parser.add_argument("--first", type=int, help="run only the first so many")
    parser.add_argument("--only", default="", help="run only changes of files whose path holds this")
    parser.add_argument("--at-least", type=float, default=0.85, help="share that must be killed")
    parser.add_argument("--list", action="store_true", help="print the changes, run nothing")
    options = parser.parse_args()
    chosen = [m for m in [*known(), *drawn(options.count, options.seed)] if options.only in m.file][: options.first]
    if options.list:
        for m in chosen:
            print(f"{m.name} {m.file}:{m.line((ROOT / m.file).read_bytes())} [{m.kind}] {m.old!r} -> {m.new!r}")
        print(len(chosen), "changes")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    stored = options.out / "results.jsonl"
    lines = stored.read_text().splitlines() if stored.exists() else []
    found = {entry["state"]: entry for entry in map(json.loads, lines)}
    tests = {m: tests_of(m) for m in chosen}
    states = {m: state_of(m, tests[m]) for m in chosen}
    paths = sorted(path for part in ("src", "tests") for path in (ROOT / part).rglob("*.py"))
    whole = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        slots: queue.Queue[Slot] = queue.Queue()
        for i in range(options.jobs):
            slots.put(Slot(pathlib.Path(folder) / str(i), options.out / "jax"))
        waiting = [m for m in chosen if states[m] not in found]

        def unchanged(room: str) -> float:
            state = f"unchanged {room} {whole}"
            if state in found:
                return found[state]["seconds"]
            slot = slots.get()
            try:
                word, first, seconds = slot.run([ROOT / f for f in sorted(by_room[room])], 7200)
            finally:
                slots.put(slot)
            if word != "passed":
                raise SystemExit(f"mutants: the tests of {room} do not pass on the unchanged code: {first}")
            print(f"{room}: unchanged in {seconds:.0f} s", flush=True)
            keep({"state": state, "seconds": round(seconds, 1)})
            return seconds

        def keep(entry: dict) -> None:
            found[entry["state"]] = entry
            with stored.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")

        def tried(mutation: Mutation) -> None:
            slot = slots.get()
            try:
                word, first, seconds = slot.try_change(
                    mutation, tests[mutation], PATIENCE * limits[room_of(mutation)] + 60
                )
            finally:
                slots.put(slot)
            line = mutation.line((ROOT / mutation.file).read_bytes())
            entry = {
                "state": states[mutation], "file": mutation.file, "line": line, "kind": mutation.kind,
                "room": room_of(mutation), "old": mutation.old, "new": mutation.new, "outcome": word, "by": first,
                "seconds": round(seconds, 1),
            }  # fmt: skip
            keep(entry)
            print(f"{word:7} {mutation.file}:{line} [{mutation.kind}] {seconds:.0f} s {first}", flush=True)

        by_room = defaultdict(set)
        for m in waiting:
            by_room[room_of(m)] |= {str(path.relative_to(ROOT)) for path in tests[m]}
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            limits = dict(zip(by_room, pool.map(unchanged, by_room), strict=True))
            list(pool.map(tried, waiting))
    results = [found[states[m]] for m in chosen if states[m] in found]
    text = report(results, len(chosen) - len(results))
    (options.out / "report.txt").write_text(text + "\n")
    print(text)
    return int(sum(r["outcome"] != "passed" for r in results) < options.at_least * len(results))


if __name__ == "__main__":
    sys.exit(main())
