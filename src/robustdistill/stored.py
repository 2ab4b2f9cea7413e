"""What a run left on disk, found and held against itself: its spec and its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdistill.errors import DamagedFile, UserError
from robustdistill.spec import RunSpec, from_layer, load_layer
from robustdistill.store import checkpoint, manifest, rundir
from robustdistill.store.environment import version

US = "robustdistill"


def stored_spec(store: rundir.RunDir) -> RunSpec:
    """The resolved spec of a run directory. DamagedFile if it is not the one that the run began with.

    Device, mode, saving and the data's folder may differ: they are not in the hash.
    """
    path = store.path / rundir.SPEC
    try:
        spec = from_layer(load_layer(path))
    except UserError as error:
        raise DamagedFile(f"{path} is no whole spec of a run ({error}); restore it from a copy") from error
    if (store.path / rundir.ENVIRONMENT).exists():
        began = store.read_environment()
        if _differs(spec, began.get("spec_hash"), began.get("packages")):
            raise DamagedFile(
                f"{path} is not the spec that this run began with: its hash is not that in {rundir.ENVIRONMENT}; "
                f"restore it, or start a new run with `train -c {path}`"
            )
    return spec


def check_origin(found: checkpoint.Checkpoint, spec: RunSpec) -> None:
    """DamagedFile if a checkpoint was saved by a run of another spec."""
    if _differs(spec, found.meta.get("spec_hash"), found.meta.get("versions")):
        raise DamagedFile(f"{found.path} was saved by a run of another spec; put it back where it came from")


def _differs(spec: RunSpec, known: object, versions: object) -> bool:
    """Whether the hash is another one; that of another version of ours cannot be compared."""
    same = isinstance(versions, Mapping) and versions.get(US) == version(US)
    return isinstance(known, str) and same and known != spec.hash()


def run_of(path: Path) -> rundir.RunDir:
    """The run that `path`, a run directory or one of its checkpoints, belongs to."""
    return rundir.open_run(path.parent.parent if is_checkpoint(path) else path)


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint's directory."""
    return (path / manifest.NAME).exists()


def find_checkpoint(path: Path, which: str = checkpoint.LATEST) -> checkpoint.Found:
    """The checkpoint `which` of the run directory `path`, or exactly the checkpoint that `path` is.

    Only for `latest` an older good checkpoint takes the place of a damaged one, with a sentence on it.
    """
    if is_checkpoint(path):
        return checkpoint.Found(checkpoint.load(path))
    run = rundir.open_run(path)
    if which == checkpoint.LATEST:
        return checkpoint.latest(run.checkpoints)
    name = checkpoint.noted(run.checkpoints, which) or which
    found = checkpoint.load(run.checkpoints / name)
    if which == rundir.BEST:
        _check_best(run, found)
    return checkpoint.Found(found)


def _check_best(run: rundir.RunDir, found: checkpoint.Checkpoint) -> None:
    """DamagedFile if the pointer names another epoch than the run's result does."""
    if not (run.path / rundir.RESULT).exists():
        return
    best: Any = run.read_result().get("best")
    epoch = best.get("epoch") if isinstance(best, Mapping) else None
    if isinstance(epoch, int) and found.meta.get("epoch", epoch + 1) != epoch + 1:
        raise DamagedFile(
            f"{run.checkpoints / rundir.BEST} names {found.path.name}, but the best epoch in {rundir.RESULT} ended as "
            f"number {epoch + 1}; `train --resume {run.path}` writes both anew"
        )
