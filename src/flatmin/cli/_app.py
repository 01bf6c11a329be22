"""The commands, registered; nothing heavy is imported here."""

from typing import Annotated

import typer

from flatmin.cli._streams import say
from flatmin.cli.explore_regulariser import explore_regulariser
from flatmin.cli.recover import recover
from flatmin.cli.report import report
from flatmin.cli.reproduce import reproduce
from flatmin.cli.runs import runs
from flatmin.cli.study import study
from flatmin.cli.verify_theory import verify_theory

app = typer.Typer(
    name="flatmin",
    help="Find, measure and certify flat minima of factorised models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(reproduce)
app.command()(recover)
app.command(name="explore-regulariser")(explore_regulariser)
app.command()(runs)
app.command()(report)
app.command()(verify_theory)
app.add_typer(study)


def _show_version(wanted: bool | None) -> None:
    if wanted:
        import flatmin

        say(f"flatmin {flatmin.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = None,
) -> None:
    del version
