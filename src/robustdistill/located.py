"""Where a teacher's weights are: in a registered one's file, which may have to be downloaded, in a file given, or in a
run that is over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdistill.errors import UserError
from robustdistill.naming import called, refuse_other_data
from robustdistill.registry import Registry
from robustdistill.spec import Node
from robustdistill.store import checkpoint, rundir
from robustdistill.store.weights import read_weights
from robustdistill.stored import check_origin, find_checkpoint, is_checkpoint, pointed, run_of, stored_spec
from robustdistill.types import Teacher
from robustdistill.zoo import fetch, place

FILES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}


@dataclass(frozen=True)
class Located:
    """A teacher's file `path`, its architecture ("" to be recognised) with parameters; its registered name, if any."""

    arch: str
    params: Mapping[str, Any]
    path: Path
    name: str = ""
    teacher: Teacher | None = None

    @property
    def missing(self) -> bool:
        """Whether the file has to be downloaded first."""
        return self.teacher is not None and fetch.missing(self.name, self.teacher)

    def refuse_offline(self) -> None:
        """UserError if it is missing and downloads are forbidden."""
        if self.teacher is not None and self.missing:
            fetch.refuse_offline(self.name, self.teacher)

    def fetched(self) -> Path:
        """The file, downloaded if it is missing. DamagedFile if it is not the teacher's."""
        if self.teacher is not None:
            fetch.fetched(self.name, self.teacher, read_weights)
            place.check(self.name, self.teacher, self.path)
        return self.path


def locate_teacher(node: Node, registry: Registry, data_name: str) -> Located:
    """Where a teacher's weights are, or will be once they are downloaded. UserError for a name that means none."""
    head, at, file = node.name.partition("@")
    names = called(head, registry)
    known: Teacher | None = registry.get("teacher", names[data_name]) if data_name in names else None
    if at and (known is None or registry.knows("model", head)):
        return Located(head, node.params, _student(Path(file)))
    if known is not None:
        params = {**known.params, **node.params}
        if at:
            return Located(known.model, params, _student(Path(file)))
        if known.path is None and not known.sources:
            raise UserError(f"teacher {node.name!r} brings no weights with it: give its file, {node.name}@FILE")
        name = names[data_name]
        return Located(known.model, params, place.place(name, known), name, known)
    path = Path(node.name)
    if _trained(path):
        return _of_run(path, data_name)
    if not names and (path.exists() or path.suffix in FILES or len(path.parts) > 1):
        return Located("", {}, path)
    return refuse_other_data(node.name, data_name, registry)


def _trained(path: Path) -> bool:
    """Whether a run, one of its checkpoints or a pointer to one lies there."""
    return (path / rundir.SPEC).is_file() or is_checkpoint(path) or bool(pointed(path))


def _of_run(path: Path, data_name: str) -> Located:
    """The student of a run with its architecture. UserError for one of other data."""
    spec = stored_spec(run_of(path))
    if spec.data.name != data_name:
        raise UserError(
            f"teacher {str(path)!r} was trained on {spec.data.name}; the run's data is {data_name}: "
            f"add --data {spec.data.name}, or say that it fits by naming its architecture, {spec.student.name}@{path}"
        )
    return Located(spec.student.name, spec.student.params, _student(path))


def _student(path: Path) -> Path:
    """The weights that a run's best epoch, or a checkpoint, was judged by; any other path itself.

    UserError for a run that is not over: its best epoch may yet be another. DamagedFile for one that changed.
    """
    if not _trained(path):
        return path
    store = run_of(path)
    if not is_checkpoint(path) and not (store.path / rundir.RESULT).exists():
        raise UserError(
            f"{path} is no teacher yet: the run has not ended. Go on with it by --resume {path}, or name one of its "
            f"checkpoints, {store.checkpoints}/NAME"
        )
    found = find_checkpoint(path, rundir.BEST).checkpoint
    assert found is not None  # only the latest one may be missing without an error
    check_origin(found, stored_spec(store))
    return found.path / f"{found.judged_name}{checkpoint.WEIGHTS}"
