"""`robustdistill doctor`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robustdistill.doctor.finding import Finding

Flag = typer.Option
UNFIT = 2


def doctor(
    device: Annotated[str, Flag(help="auto, cpu, cuda or cuda:N.", metavar="NAME")] = "auto",
    data: Annotated[str | None, Flag(help="Data set that a run would use. [digits]", metavar="NAME")] = None,
    data_dir: Annotated[Path | None, Flag(help="Folder that holds it. [downloaded]", metavar="DIR")] = None,
    json_: Annotated[bool, Flag("--json", help="One JSON object to stdout.")] = False,
) -> None:
    """Look for what would fail: packages, device, compiler, plugins, caches, disk, data.

    Nothing is trained, downloaded or changed. Exit code 2 when `train` with these flags would fail, else 0.
    """
    from robustdistill.cli import folders, progress, render
    from robustdistill.cli.drive import quoted
    from robustdistill.doctor.checks import examine, failing
    from robustdistill.doctor.finding import Asked
    from robustdistill.store.plain import plain

    with render.waiting("looking"):
        findings = examine(Asked(device, data, data_dir, folders.RUNS))
    flags = {"--device": None if device == "auto" else device, "--data": data, "--data-dir": data_dir}
    train = "robustdistill train" + "".join(f" {flag} {quoted(v)}" for flag, v in flags.items() if v is not None)
    needed = [f.check for f in failing(findings) if f.needed]
    if json_:
        record = {"train": train, "works": not needed, "failing": len(failing(findings)), "checks": findings}
        progress.emit({"event": "doctor", **plain(record)})
    else:
        _show(findings, train)
    if needed:
        raise typer.Exit(UNFIT)


def _show(findings: "Sequence[Finding]", train: str) -> None:
    from robustdistill.cli import render
    from robustdistill.doctor.checks import failing
    from robustdistill.report.tables import Table

    rows = tuple((f.check, f.state, f"{f.found}. Do: {f.advice}" if f.advice else f.found) for f in findings)
    bold = frozenset((i, 1) for i, f in enumerate(findings) if f in failing(findings))
    render.show(Table(("check", "state", "found"), rows, words=3, bold=bold))
    render.say([verdict(findings, train)])


def verdict(findings: "Sequence[Finding]", train: str) -> str:
    """The last line: how many things would fail, and whether a training is among them."""
    from robustdistill.doctor.checks import failing

    found = failing(findings)
    if not found:
        return "nothing would fail"
    needed = ", ".join(f.check for f in found if f.needed)
    count = f"{len(found)} thing{'s' if len(found) > 1 else ''} would fail"
    return f"{count}; `{train}` needs: {needed}" if needed else f"{count}, but not `{train}`"
