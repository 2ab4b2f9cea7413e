"""The commands, put together."""

from typing import Annotated, Any

import typer

from robustdistill import __version__
from robustdistill.cli import (
    bench,
    compare,
    doctor,
    evaluate,
    explain,
    import_teacher,
    listing,
    plugins,
    report,
    study,
    train,
)

HELP = """Adversarial Robustness Distillation: train small image classifiers that stay accurate under attack.

Start with: robustdistill train
"""


def command() -> Any:
    """The whole command line, as an object with `main(args)`."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: fast, the same in every terminal and file
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, help=HELP)(_top)
    app.command("train", short_help="Train a student.")(train.train)
    app.command("eval", short_help="Judge a network under attack.")(evaluate.evaluate)
    app.command("list", short_help="List methods, attacks, models, teachers, ...")(listing.show)
    app.command("explain", short_help="Explain anything that has a name.")(explain.explain)
    app.command("compare", short_help="Put runs side by side.")(compare.compare)
    app.command("report", short_help="Write a run's report as one HTML page.")(report.report)
    app.add_typer(study.app, name="study", short_help="Train and judge many runs from one file.")
    app.command("bench", short_help="Measure how fast steps are.")(bench.bench)
    app.command("doctor", short_help="Look for what would fail here.")(doctor.doctor)
    app.command("import-teacher", short_help="Convert a file that only code can read.")(import_teacher.import_teacher)
    app.add_typer(plugins.app, name="plugins", short_help="List what is installed.")
    return typer.main.get_command(app)


def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print(f"robustdistill {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
