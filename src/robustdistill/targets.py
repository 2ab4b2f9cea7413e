"""What `eval` is asked to judge: a run, a checkpoint, a name, a file or a module, turned into a network."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robustdistill import assemble, hub
from robustdistill.errors import UserError
from robustdistill.located import FILES
from robustdistill.naming import called, dataset_of, registered
from robustdistill.registry import Registry
from robustdistill.run import load
from robustdistill.spec import Node
from robustdistill.store import rundir
from robustdistill.stored import is_checkpoint, pointed, run_of, stored_spec

DEFAULT_DATA = "digits"


@dataclass(frozen=True)
class Target:
    """What is judged: a network, the data that it was made for, and the run that it came from, if any.

    `network` is made when it is first asked for: it may have to be downloaded, after all else is known to be right.
    """

    made: Callable[[], nn.Module]
    name: str
    data: str
    directory: str | None
    eps: float | None
    seed: int = 0
    store: rundir.RunDir | None = None

    @functools.cached_property
    def network(self) -> nn.Module:
        """What is judged."""
        return self.made()


def find_target(
    model: nn.Module | str | Path, registry: Registry, data: str | None, data_dir: str | Path | None
) -> Target:
    """What `model` means (see `evaluate`)."""
    directory = str(data_dir) if data_dir is not None else None
    if isinstance(model, nn.Module):
        name, folder = registry.placed(data or DEFAULT_DATA)
        module = model
        return Target(lambda: module, type(module).__name__, name, directory if directory is not None else folder, None)
    path = Path(model)
    if (path / rundir.SPEC).exists() or is_checkpoint(path) or pointed(path):
        return _run_target(path, registry, data, directory)
    _refuse_nothing(path, str(model), registry)
    name, folder = registry.placed(data or dataset_of([str(model)], registry) or DEFAULT_DATA)
    directory = directory if directory is not None else folder
    dataset = registry.dataset(name, directory)
    model = registered(str(model), name, registry)
    build = functools.partial(assemble.build_teacher, Node(name=model), dataset, registry, name)
    target = Target(build, str(model), name, directory, None)
    if not assemble.downloads(Node(name=model), dataset, registry, name):
        _ = target.network  # what is wrong with a file is said before images are downloaded
    return target


def _refuse_nothing(path: Path, name: str, registry: Registry) -> None:
    """UserError for what is neither there nor a name; PluginError where a broken plugin may have it."""
    if path.exists() or "@" in name or hub.names(name) or called(name, registry) or registry.knows("model", name):
        return
    told = f"there is no run or file {name!r}"
    if path.suffix in FILES or len(path.parts) > 1:
        raise UserError(f"{told}; name a run, one of its checkpoints or a file of weights")
    unknown = registry.unknown("teacher", name)
    if not isinstance(unknown, UserError):
        raise unknown
    raise UserError(f"{told}, and it is an {str(unknown).replace(f' {name!r}', '', 1)}")


def _run_target(path: Path, registry: Registry, data: str | None, directory: str | None) -> Target:
    store = run_of(path)
    spec = stored_spec(store)
    made = functools.partial(load, path, registry=registry)
    data, folder = registry.placed(data) if data is not None else (None, None)
    directory = directory if directory is not None else folder
    same = data in (None, spec.data.name)
    target = Target(
        made,
        store.name,
        data or spec.data.name,
        directory or (spec.data.dir if same else None),
        spec.eps if same else None,
        spec.seed,
        store,
    )
    _ = target.network
    return target
