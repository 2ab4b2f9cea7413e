"""Where runs go and which runs a path means."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustdistill.errors import UserError
from robustdistill.store import rundir

if TYPE_CHECKING:
    from robustdistill.spec import RunSpec

RUNS = Path("runs")


def default_folder(spec: "RunSpec") -> Path:
    """An unused `runs/<data>-<method>-<student>-s<seed>`."""
    name = "-".join((spec.data.name, spec.method, spec.student.name))
    return rundir.unused(RUNS / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-s{spec.seed}")


def seed_folders(parent: Path, seeds: Sequence[int]) -> list[Path]:
    """`parent/s0`, `parent/s1`, ...; UserError, before the first run starts, when one of them exists."""
    folders = [parent / f"s{seed}" for seed in seeds]
    taken = [f for f in (parent / rundir.SPEC, *folders) if f.exists()]
    if taken:
        raise UserError(f"{taken[0]} exists already; choose another --out")
    return folders


def runs_in(path: Path) -> list[rundir.RunDir]:
    """The run in `path`, or else the runs in its folders, by name; UserError when there is none."""
    if not (path / rundir.SPEC).exists():
        inside = sorted(path.glob(f"*/{rundir.SPEC}"), key=lambda p: _natural(p.parent.name))
        if inside:
            return [rundir.open_run(spec.parent) for spec in inside]
    return [rundir.open_run(path)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts s2 before s10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
