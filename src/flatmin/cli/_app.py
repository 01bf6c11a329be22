"""The commands, registered; nothing heavy is imported here."""

from typing import Annotated

import typer

from flatmin.cli._help import verb
from flatmin.cli._streams import say
from flatmin.cli.explore_regulariser import explore_regulariser
from flatmin.cli.recover import Recover, recover
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
verb(app, "flatmin reproduce gatmiry2023 --quick --strict", "flatmin reproduce --list")(reproduce)
verb(
    app,
    "flatmin recover camera --missing 0.6",
    "flatmin recover ratings.csv --centre --holdout 0.1",
    "flatmin recover page --task robust-pca",
    cls=Recover,
)(recover)
verb(app, "flatmin explore-regulariser --quick", name="explore-regulariser")(explore_regulariser)
verb(app, "flatmin runs --out runs")(runs)
verb(app, "flatmin report gatmiry2023-0123abcd")(report)
verb(
    app,
    "flatmin verify-theory --quick --strict",
    "flatmin verify-theory --instance gatmiry-theorem-1:0:17",
    name="verify-theory",
)(verify_theory)
app.add_typer(study, short_help=study.info.help)


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
