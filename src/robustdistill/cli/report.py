"""`robustdistill report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustdistill.errors import UserError, nearest

if TYPE_CHECKING:
    from robustdistill.report.contents import Contents

NAME = "report.html"
FORMATS = ("svg", "png")


def report(
    target: Annotated[
        Path | None, typer.Argument(help="A run. [the newest run under runs/]", metavar="RUN", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New file for the page. [RUN/report.html]", metavar="FILE")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for a file of each figure.", metavar="DIR", show_default=False)
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Of these files: svg or png.", metavar="NAME")] = FORMATS[0],
) -> None:
    """Write a run's report: one HTML page with its verdicts, curves and figures, which needs no network.

    It shows what the run's folder holds and says which commands give the rest. The path of the page is printed last.
    """
    if form not in FORMATS:
        raise UserError(f"there is no format {form!r}{nearest(form, FORMATS)}")
    if out is not None and out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to hold --out {out}")
    from robustdistill.cli import folders
    from robustdistill.cli.gather import gather
    from robustdistill.registry import default_registry
    from robustdistill.report.page import page
    from robustdistill.store import rundir
    from robustdistill.store.atomic import write_atomic

    run = rundir.open_run(target) if target is not None else rundir.newest(folders.RUNS)
    contents = gather(run, default_registry())
    if figures is not None:
        _write_figures(contents, figures, form)
    path = out or run.path / NAME
    try:
        write_atomic(path, page(contents))
    except OSError as error:
        if error.errno not in rundir.UNWRITABLE:
            raise
        raise UserError(f"{path} cannot be written: {error.strerror}; write it elsewhere with --out FILE") from error
    print(path)


def _write_figures(contents: "Contents", folder: Path, form: str) -> None:
    from robustdistill.report.page import figure_files
    from robustdistill.store.atomic import write_atomic

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in figure_files(contents, form):
        write_atomic(folder / name, content)
        print(folder / name)
