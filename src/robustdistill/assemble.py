"""A spec's names turned into objects: student, teachers, method, data."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustdistill.checks import check_network, check_split
from robustdistill.data import own
from robustdistill.data.keys import generator, key
from robustdistill.engine.dryrun import Reads, dry_step
from robustdistill.engine.execution import freeze
from robustdistill.engine.step import BoundAttack, MinMax, min_max
from robustdistill.errors import DamagedFile, PluginError, RobustDistillError, UserError
from robustdistill.factory import factory
from robustdistill.logits import DEFAULT_ROLE, Logits
from robustdistill.modes import seeded
from robustdistill.registry import Registry, match_template
from robustdistill.spec import ExtraSpec, Node, RunSpec
from robustdistill.store.atomic import sha256
from robustdistill.store.weights import load_into, read_weights, recognise
from robustdistill.types import Dataset, Objective, Split, Splits, Teacher, Weights

NO_ATTACK = "none"


def build_game(spec: RunSpec, registry: Registry) -> MinMax:
    """The method of a spec, with fresh state."""
    inner = registry.build("inner", spec.inner.name, spec.inner.params)
    outer = registry.build("outer", spec.outer.name, spec.outer.params)
    modifiers = [registry.build("modifier", m.name, m.params) for m in spec.modifiers]
    attack = None if spec.inner.name == NO_ATTACK else _bound(spec, registry)
    return min_max(inner, outer, attack, modifiers, spec.attack_bn)


def _bound(spec: RunSpec, registry: Registry) -> BoundAttack:
    run = registry.build("attack", spec.attack.name, spec.attack.params)

    def attack(z: Logits, objective: Objective, generator: Generator | None) -> Tensor:
        x_adv: Tensor = run(z, objective, eps=spec.eps, generator=generator)
        return x_adv

    return attack


def build_student(spec: RunSpec, dataset: Dataset, registry: Registry) -> nn.Module:
    """The student with initial weights that the seed alone decides; the global random state is left alone."""
    build = factory(spec.student, registry)
    with seeded(key(spec.seed, "student"), torch.device("cpu")):
        network: nn.Module = build(num_classes=len(dataset.classes), in_channels=dataset.channels)
    return network


def build_teacher(node: Node, dataset: Dataset, registry: Registry, data_name: str) -> nn.Module:
    """The frozen teacher that `NAME`, `FILE` or `ARCH@FILE` means, fitted to the run's data."""
    arch, params, path = locate_teacher(node, registry, data_name)
    known: Teacher | None = registry.units("teacher").get(node.name)
    if known and known.sha256 and sha256(path) != known.sha256:
        raise DamagedFile(f"{path} is not the file of teacher {node.name!r}: its sha256 differs")
    weights = read_weights(path)
    if arch:
        params = {**_seen(arch, weights, registry), **params}
    else:
        arch, params = recognise(weights, registry.units("model"))
    if ":" not in arch:
        params = registry.params("model", arch, params, f"teacher {node.name}")
    build = factory(Node(name=arch, **params), registry)
    network: nn.Module = build(num_classes=len(dataset.classes), in_channels=dataset.channels)
    load_into(network, weights, f"teacher {node.name}")
    return freeze(network)


def fitting(weights: Weights, registry: Registry) -> tuple[str, dict[str, Any], list[str]]:
    """Weights' architecture, the parameters that its name does not hold, and the data sets that it takes images of.

    Raises UserError if the architecture is not recognised.
    """
    arch, params = recognise(weights, registry.units("model"))
    build = registry.build("model", arch, registry.params("model", arch, params, arch))
    shapes = {name: value.shape for name, value in weights.items()}

    def takes(data: Dataset) -> bool:
        try:
            with torch.device("meta"):
                own = build(num_classes=len(data.classes), in_channels=data.channels).state_dict()
        except Exception:  # an architecture need not be made for every data set
            return False
        return all(own[name].shape == shape for name, shape in shapes.items() if name in own)

    return arch, params, [name for name, data in registry.datasets().items() if takes(data)]


def teacher_file(node: Node, registry: Registry, data_name: str) -> Path:
    """The file that a teacher's weights are read from."""
    return locate_teacher(node, registry, data_name)[2]


def unread(
    spec: RunSpec, reads: Reads, dataset: Dataset, registry: Registry, given: Mapping[str, nn.Module]
) -> list[str]:
    """Sentences on teachers that were named and that no step reads. UserError for a role or a teacher unknown."""
    notes = []
    for role, node in spec.teachers.items():
        default = node.name == dataset.teacher and role not in given
        if role in reads.roles or default:
            continue
        if role not in given:
            teacher_file(node, registry, spec.data.name)
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
    if ":" in arch:
        return {}
    entry = registry.entry("model", arch)
    seen = entry.unit.recognise(weights) if entry.unit.recognise else None
    return {k: v for k, v in (seen or {}).items() if k not in entry.params}


def locate_teacher(node: Node, registry: Registry, data_name: str) -> tuple[str, dict[str, Any], Path]:
    """(architecture or "" to be recognised, its parameters, the file of weights)."""
    arch, at, file = node.name.partition("@")
    if at:
        return arch, node.params, Path(file)
    teachers = registry.units("teacher")
    if node.name in teachers:
        teacher = teachers[node.name]
        if teacher.dataset != data_name:
            raise UserError(f"teacher {node.name!r} was trained on {teacher.dataset}; the run's data is {data_name}")
        if teacher.path is None:
            raise UserError(f"teacher {node.name!r} brings no weights with it: give its file, {node.name}@FILE")
        return teacher.model, {**teacher.params, **node.params}, teacher.path
    path = Path(node.name)
    if path.exists() or path.suffix in {".safetensors", ".pt", ".pth", ".bin", ".ckpt"} or len(path.parts) > 1:
        return "", {}, path
    if any(match_template(m, node.name) is not None or m == node.name for m in registry.names("model")):
        raise UserError(f"{node.name!r} is an architecture, not a trained teacher: give its file, {node.name}@FILE")
    raise registry.unknown("teacher", node.name, " A file of weights works too.")


def plan(spec: RunSpec, student: nn.Module, dataset: Dataset, registry: Registry) -> Reads:
    """What one step of the spec reads. UserError for a teacher that is missing."""
    reads = reads_of(spec, student, dataset, registry)
    for role in reads.roles:
        if role not in spec.teachers:
            have = ", ".join(spec.teachers) or "none"
            raise UserError(f"{spec.method} reads the teacher {role!r}; given: {have}. Add --teacher {role}=NAME")
    return reads


def reads_of(spec: RunSpec, student: nn.Module, dataset: Dataset, registry: Registry) -> Reads:
    """What one step of the spec reads, by a dry step on device meta: no data and no teacher is needed.

    PluginError if the step fails there: nothing of a run has started yet.
    """
    shape = (2, dataset.channels, dataset.size, dataset.size)
    trial = copy.deepcopy(student).to("meta")
    check_network(trial, dataset, f"student {spec.student.name}")
    try:
        return dry_step(build_game(spec, registry), trial, shape=shape, classes=len(dataset.classes))
    except RobustDistillError:
        raise
    except Exception as error:  # of a plugin's objective, or of a student that does not take these images
        pair = f"inner {spec.inner.name!r}, outer {spec.outer.name!r}, student {spec.student.name!r}"
        raise PluginError(
            f"a trial step on device meta failed ({pair}): {error}. Objectives must not ask the host for values "
            f"(.item(), if tensor, masks)"
        ) from error


def training_split(splits: Splits, select: str) -> Split:
    """What is learned from: `train`, and the hold-out too when the test set selects, as the papers do."""
    if select == "holdout":
        return splits.train
    parts = splits.train, splits.holdout
    return Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))


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
