"""`robustdistill compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from robustdistill.errors import UserError, nearest

FORMATS = ("table", "markdown", "csv", "json", "latex")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders that hold runs.", metavar="RUN")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.", metavar="NAME")] = "table",
) -> None:
    """Put runs side by side: test accuracies in %, of several seeds mean ± standard deviation.

    The best checkpoint's numbers are those of `eval` where it was run, else those from the end of training.
    json gives fractions in [0, 1], one object a line.
    """
    if form not in FORMATS:
        raise UserError(f"there is no format {form!r}{nearest(form, FORMATS)}")
    from robustdistill.cli import progress, render
    from robustdistill.cli.outcomes import by_spec, comparison, notes, numbered, outcome, record
    from robustdistill.report.tables import comma_separated, latex, markdown

    outcomes = [outcome(run) for run in _distinct(runs)]
    groups = by_spec(outcomes)
    if form == "json":
        for group in groups:
            progress.emit(record(group))
    elif form == "table":
        who, accuracies = numbered(groups)
        render.show(who)
        print()
        render.show(accuracies)
        render.say(["Accuracy on the test images in %; of several seeds mean ± standard deviation.", *notes(outcomes)])
    else:
        texts = {"markdown": markdown, "csv": comma_separated, "latex": latex}
        print(texts[form](comparison(groups)), end="")
        for note in notes(outcomes):
            print(f"note: {note}", file=sys.stderr)


def _distinct(paths: Sequence[Path]) -> list[Any]:
    """The runs that the paths mean, each once."""
    from robustdistill.cli.folders import runs_in

    found = {run.path.resolve(): run for path in paths for run in runs_in(path)}
    return list(found.values())
