"""What a run left on disk, found and held against itself: its spec and its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdistill.errors import DamagedFile, UserError
from robustdistill.spec import RunSpec, from_layer, load_layer
from robustdistill.store import checkpoint, manifest, rundir
from robustdistill.store.environment import version

US = "robustdistill"
LABELS = (rundir.BEST, checkpoint.LATEST)  # the pointers that a run keeps


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
    """The run that `path`, a run directory or one of its checkpoints, or a pointer to one, belongs to."""
    return rundir.open_run(path.parent.parent if is_checkpoint(path) or pointed(path) else path)


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint's directory."""
    return (path / manifest.NAME).exists()


def pointed(path: Path) -> str:
    """The label that `path` is, `checkpoints/best` or `checkpoints/latest` of a run; "" for any other path."""
    in_run = path.name in LABELS and path.parent.name == rundir.CHECKPOINTS and path.is_file()
    return path.name if in_run and (path.parent.parent / rundir.SPEC).is_file() else ""


def find_checkpoint(path: Path, which: str = checkpoint.LATEST) -> checkpoint.Found:
    """The checkpoint `which` of the run directory `path`, or exactly the one that `path` is or points to.

    Only for `latest` an older good checkpoint takes the place of a damaged one, with a sentence on it.
    """
    if is_checkpoint(path):
        return checkpoint.Found(checkpoint.load(path))
    which, run = pointed(path) or which, run_of(path)
    if which == checkpoint.LATEST:
        return checkpoint.latest(run.checkpoints)
    name = checkpoint.noted(run.checkpoints, which) or which
    _check_there(run, which, name)
    found = checkpoint.load(run.checkpoints / name)
    if which == rundir.BEST:
        _check_best(run, found)
    return checkpoint.Found(found)


def _check_there(run: rundir.RunDir, which: str, name: str) -> None:
    """UserError for a checkpoint that the run does not have: it has judged no epoch yet, or calls it otherwise."""
    if name != which or (run.checkpoints / name).is_dir():
        return
    if which == rundir.BEST and unjudged(run):
        raise UserError(
            f"{run.path} has judged no epoch yet: it still runs, or was stopped before; "
            f"go on with it by `train --resume {run.path}`"
        )
    there = [label for label in LABELS if (run.checkpoints / label).is_file()]
    there += sorted(path.parent.name for path in run.checkpoints.glob(f"epoch-*/{manifest.NAME}"))
    raise UserError(f"There is no checkpoint {run.checkpoints / name}; there is {', '.join(there) or 'none at all'}.")


def unjudged(run: rundir.RunDir) -> bool:
    """Whether no epoch of a run was judged yet: nothing is noted as the best, and there is no result."""
    return not (run.checkpoints / rundir.BEST).exists() and not (run.path / rundir.RESULT).exists()


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
