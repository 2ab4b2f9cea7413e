"""A spec's names turned into objects: student, teachers, method, data."""

import copy
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustdistill import hub
from robustdistill.blame import of_meta
from robustdistill.checks import check_network, check_split
from robustdistill.data import own
from robustdistill.data.keys import generator, key
from robustdistill.engine.dryrun import Reads, dry_step
from robustdistill.engine.execution import freeze
from robustdistill.engine.step import BoundAttack, MinMax, min_max
from robustdistill.errors import PluginError, RobustDistillError, UserError
from robustdistill.factory import CLASSES, built, imports
from robustdistill.located import locate_teacher
from robustdistill.logits import DEFAULT_ROLE
from robustdistill.modes import seeded
from robustdistill.naming import embedded
from robustdistill.normalise import as_the_weights
from robustdistill.registry import Registry, callable_of
from robustdistill.spec import ExtraSpec, Node, RunSpec
from robustdistill.store.weights import load_into, of_second_part, read_weights, recognise
from robustdistill.types import Dataset, Split, Splits, Weights

NO_ATTACK = "none"


def build_game(spec: RunSpec, registry: Registry, classes: int) -> MinMax:
    """The method of a spec, with fresh state. A unit that takes `num_classes` is given the data's `classes`."""

    def unit(kind: str, node: Node) -> Any:
        takes = inspect.signature(callable_of(registry.get(kind, node.name))).parameters
        return registry.build(kind, node.name, node.params | ({CLASSES: classes} if CLASSES in takes else {}))

    inner, outer = unit("inner", spec.inner), unit("outer", spec.outer)
    attack = None if spec.inner.name == NO_ATTACK else _bound(spec, registry)
    return min_max(inner, outer, attack, [unit("modifier", m) for m in spec.modifiers], spec.attack_bn)


def _bound(spec: RunSpec, registry: Registry) -> BoundAttack:
    run: Callable[..., Tensor] = registry.build("attack", spec.attack.name, spec.attack.params)
    return lambda z, objective, generator: run(z, objective, eps=spec.eps, generator=generator)


def build_student(spec: RunSpec, dataset: Dataset, registry: Registry) -> nn.Module:
    """The student with initial weights that the seed alone decides; the global random state is left alone."""
    with seeded(key(spec.seed, "student"), torch.device("cpu")):
        return built(spec.student, registry, **dataset.sizes)


def build_teacher(node: Node, dataset: Dataset, registry: Registry, data_name: str) -> nn.Module:
    """The frozen teacher that `NAME`, `FILE`, `ARCH@FILE` or a name of timm's means, fitted to the run's data.

    The file of a registered one is downloaded where it is not on this disk. Where a file holds the normalisation that
    its network was trained behind, the teacher does it.
    """
    what = f"teacher {node.name}"
    if hub.names(node.name):
        trained = hub.load(node.name, len(dataset.classes))
        check_network(trained, dataset, what)
        return freeze(trained)
    found = locate_teacher(node, registry, data_name)
    weights, arch, params = read_weights(found.fetched()), found.arch, found.params
    if "normalisation" in params:  # so it is known what stood before the network
        weights = of_second_part(weights)
    if arch:
        params = {**_seen(arch, weights, registry), **params}
    else:
        arch, params = recognise(weights, registry.units("model"))
    network = _untrained(arch, params, node, dataset, registry)
    if not imports(arch, registry):
        network, weights = as_the_weights(network, weights, dataset.channels)
    load_into(network, weights, what)
    return freeze(network)


def downloads(node: Node, dataset: Dataset, registry: Registry, data_name: str) -> bool:
    """Whether a teacher has to be downloaded, or may have to be: only timm knows what it has.

    UserError for one that must not be, or whose architecture does not fit the run's data.
    """
    if hub.names(node.name):
        return not node.name.startswith(hub.FOLDER)
    found = locate_teacher(node, registry, data_name)
    if found.missing:
        found.refuse_offline()
        check_network(shape_of(found.arch, found.params, node, dataset, registry), dataset, f"teacher {node.name}")
    return found.missing


def blank_teacher(node: Node, dataset: Dataset, registry: Registry, data_name: str) -> nn.Module:
    """A registered teacher without its weights: what is in their place is arbitrary. Takes no time and no room."""
    found = locate_teacher(node, registry, data_name)
    return freeze(shape_of(found.arch, found.params, node, dataset, registry).to_empty(device="cpu"))


def shape_of(arch: str, params: Mapping[str, Any], node: Node, dataset: Dataset, registry: Registry) -> nn.Module:
    """A teacher's architecture on device meta, where it has no weights."""
    with torch.device("meta"):
        return _untrained(arch, params, node, dataset, registry)


def _untrained(arch: str, params: Mapping[str, Any], node: Node, dataset: Dataset, registry: Registry) -> nn.Module:
    """A teacher's architecture with its initial weights."""
    given = params if imports(arch, registry) else registry.params("model", arch, params, f"teacher {node.name}")
    return built(Node(name=arch, **given), registry, **dataset.sizes)


def fitting(weights: Weights, registry: Registry) -> tuple[str, dict[str, Any], list[str]]:
    """Weights' architecture, the parameters that its name does not hold, and the data sets that it takes images of.

    Raises UserError if the architecture is not recognised.
    """
    arch, params = recognise(weights, registry.units("model"))
    node = Node(name=arch, **registry.params("model", arch, params, arch))
    shapes = {name: value.shape for name, value in weights.items()}

    def takes(data: Dataset) -> bool:
        try:
            with torch.device("meta"):
                own = built(node, registry, **data.sizes).state_dict()
        except Exception:  # an architecture need not be made for every data set
            return False
        return all(own[name].shape == shape for name, shape in shapes.items() if name in own)

    return arch, params, [name for name, data in registry.datasets().items() if takes(data)]


def unread(
    spec: RunSpec, reads: Reads, dataset: Dataset, registry: Registry, given: Mapping[str, nn.Module]
) -> list[str]:
    """Sentences on teachers that were named and that no step reads. UserError for a role or a teacher unknown."""
    notes = []
    for role, node in spec.teachers.items():
        default = node.name == dataset.teacher and role not in given
        if role in reads.roles or default:
            continue
        if role not in given and not hub.names(node.name):
            locate_teacher(node, registry, spec.data.name)
        if role != DEFAULT_ROLE:
            raise UserError(f"{spec.method} reads no teacher {role!r}; it reads: {', '.join(reads.roles) or 'none'}")
        notes.append(f"{spec.method} reads no teacher {role!r}: the one given is not used")
    return notes


def load_data(dataset: Dataset, name: str, directory: str | Path | None) -> Splits:
    """The splits of a data set. UserError for a folder given to one that comes with the package.

    PluginError for images or labels that are none of its own.
    """
    if directory is not None and not dataset.needs_dir:
        raise UserError(f"{name} comes with the package and takes no --data-dir; name the data set too: --data NAME")
    splits: Splits = dataset.load(Path(directory) if directory is not None else None)
    for part in ("train", "holdout", "test"):
        check_split(getattr(splits, part), dataset, f"the {part} images of {name}")
    return splits


def load_extra(extra: ExtraSpec | None, dataset: Dataset) -> Split | None:
    """More images to learn from. UserError if they are not of the data set's kind."""
    if extra is None:
        return None
    split = own.extra(Path(extra.file))
    size, classes = [dataset.channels, dataset.size, dataset.size], len(dataset.classes)
    if list(split.images.shape[1:]) != size:
        raise UserError(f"the images of {extra.file} are {list(split.images.shape[1:])}, the run's data has {size}")
    if len(split) == 0 or int(split.labels.max()) >= classes:
        raise UserError(f"{extra.file} has no images, or labels beyond the {classes} classes of the run's data")
    return split


def blank(dataset: Dataset) -> Splits | None:
    """Black images, as many as there are, in the place of those that `dataset` would download; None if it does not."""
    image = (dataset.channels, dataset.size, dataset.size)

    def split(n: int) -> Split:
        return Split(torch.zeros(n, *image, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64))

    return Splits(*map(split, dataset.downloads)) if dataset.downloads else None


def _seen(arch: str, weights: Weights, registry: Registry) -> dict[str, Any]:
    """The parameters, beyond those in the name, that the weights of a named architecture show."""
    if imports(arch, registry):
        return {}
    entry = registry.entry("model", arch)
    seen = entry.unit.recognise(weights) if entry.unit.recognise else None
    return {k: v for k, v in (seen or {}).items() if k not in entry.params}


def plan(spec: RunSpec, student: nn.Module, dataset: Dataset, registry: Registry) -> Reads:
    """What one step of the spec reads. UserError for a teacher that is missing."""
    reads = reads_of(spec, student, dataset, registry)
    for role in reads.roles:
        if role not in spec.teachers:
            have, brought = ", ".join(spec.teachers) or "none", embedded(role, spec.data.name, registry) or "NAME"
            raise UserError(f"{spec.method} reads the teacher {role!r}; given: {have}. Add --teacher {role}={brought}")
    return reads


def reads_of(spec: RunSpec, student: nn.Module, dataset: Dataset, registry: Registry) -> Reads:
    """What one step of the spec reads, by a dry step on device meta: no data and no teacher is needed.

    PluginError if the step fails there: nothing of a run has started yet.
    """
    shape, classes = (2, dataset.channels, dataset.size, dataset.size), len(dataset.classes)
    trial = copy.deepcopy(student).to("meta")
    check_network(trial, dataset, f"student {spec.student.name}")
    try:
        return dry_step(build_game(spec, registry, classes), trial, shape=shape, classes=classes)
    except RobustDistillError:
        raise
    except Exception as error:  # of a plugin's objective, or of a student that does not take these images
        pair = f"inner {spec.inner.name!r}, outer {spec.outer.name!r}, student {spec.student.name!r}"
        raise PluginError(f"a trial step on device meta failed ({pair}): {of_meta(error)}") from error


def training_parts(splits: Splits, select: str) -> list[Split]:
    """What is learned from: `train`, and the hold-out too when the test set selects, as the papers do."""
    return [splits.train] if select == "holdout" else [splits.train, splits.holdout]


def judging_generator(seed: int, device: torch.device, registry: Registry) -> Callable[[str, int], Generator]:
    """The randomness of an evaluation: by seed, attack and the index of the batch's first example.

    Two names of one attack draw the same noise: that of the name registered first.
    """
    first: dict[int, str] = {}
    for name, attack in registry.units("attack").items():
        first.setdefault(id(attack), name)

    def make(attack: str, index: int) -> Generator:
        name = first[id(registry.get("attack", attack))]
        return generator(seed, "judge", name, index, device=device)

    return make
