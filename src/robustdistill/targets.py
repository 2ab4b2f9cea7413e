"""What `eval` is asked to judge: a run, a checkpoint, a name, a file or a module, turned into a network."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robustdistill import assemble
from robustdistill.naming import dataset_of, registered
from robustdistill.registry import Registry
from robustdistill.run import load
from robustdistill.spec import Node
from robustdistill.store import rundir
from robustdistill.stored import is_checkpoint, run_of, stored_spec

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
    if (path / rundir.SPEC).exists() or is_checkpoint(path):
        return _run_target(path, registry, data, directory)
    name, folder = registry.placed(data or dataset_of([str(model)], registry) or DEFAULT_DATA)
    directory = directory if directory is not None else folder
    dataset = registry.dataset(name, directory)
    model = registered(str(model), name, registry)
    build = functools.partial(assemble.build_teacher, Node(name=model), dataset, registry, name)
    target = Target(build, str(model), name, directory, None)
    if not assemble.downloads(Node(name=model), dataset, registry, name):
        _ = target.network  # what is wrong with a file is said before images are downloaded
    return target


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
