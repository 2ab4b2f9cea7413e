"""`robustdistill compare`."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustdistill.errors import UserError, nearest

if TYPE_CHECKING:
    from robustdistill.cli.outcomes import Outcome

LEGEND = "Accuracy on the test images in %; of several seeds mean ± standard deviation."
FORMATS = ("table", "markdown", "csv", "json", "latex")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders that hold runs.", metavar="RUN")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.", metavar="NAME")] = "table",
) -> None:
    """Put runs side by side: test accuracies in %, of several seeds mean ± standard deviation.

    The best checkpoint's numbers are those of `eval` where it was run, else those from the end of training. Bold: the
    highest of what can be compared. Beside them stand, where they are known, the difference to the teacher and the
    numbers of a paper for the same data, student and teacher. Runs of a folder that are not finished
    are left out, with a sentence. json gives fractions in [0, 1], one object a line.
    """
    if form not in FORMATS:
        raise UserError(f"there is no format {form!r}{nearest(form, FORMATS)}")
    from robustdistill.cli import progress, render
    from robustdistill.cli.comparison import comparison, numbered, record, rows_of, sources
    from robustdistill.cli.outcomes import apart, by_spec, notes
    from robustdistill.cli.references import references
    from robustdistill.registry import default_registry
    from robustdistill.report.tables import comma_separated, latex, markdown

    outcomes, unfinished = _found(runs)
    groups, refer = by_spec(outcomes), partial(references, registry=default_registry())
    if form == "json":
        for sentence in unfinished:
            print(f"note: {sentence}", file=sys.stderr)
        for group in groups:
            progress.emit(record(group, refer(group[0].spec)))
        return
    rows = rows_of(groups, refer)
    told = [*unfinished, *apart(groups), *notes(outcomes), *sources(rows, refer)]
    if form == "table":
        render.show_titled(numbered(rows))
        render.say([LEGEND, *told])
    else:
        print({"markdown": markdown, "csv": comma_separated, "latex": latex}[form](comparison(rows)), end="")
        for note in told:
            print(f"note: {note}", file=sys.stderr)


def _found(paths: Sequence[Path]) -> tuple[list["Outcome"], list[str]]:
    """What is known of the runs that the paths mean, each once, and a sentence on each that has nothing to show yet.

    UserError for one that is named itself, and where nothing is left.
    """
    from robustdistill.cli import outcomes
    from robustdistill.cli.folders import runs_in

    runs = {run.path.resolve(): run for path in paths for run in runs_in(path)}
    named = {path.resolve() for path in paths}
    ready = [run for key, run in runs.items() if key in named or outcomes.known(run)]
    told = [outcomes.unfinished(run) for run in runs.values() if run not in ready]
    if not ready:
        raise UserError("; ".join(told))
    return [outcomes.outcome(run) for run in ready], told
