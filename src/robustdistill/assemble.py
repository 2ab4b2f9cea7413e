"""A spec's names turned into objects: student, teachers, method, data."""

import functools
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustdistill.data.keys import generator, key
from robustdistill.engine.dryrun import Reads, dry_step
from robustdistill.engine.execution import freeze
from robustdistill.engine.step import BoundAttack, MinMax, min_max
from robustdistill.errors import DamagedFile, PluginError, RobustDistillError, UserError, nearest
from robustdistill.logits import Logits
from robustdistill.registry import Registry, match_template
from robustdistill.spec import Node, RunSpec
from robustdistill.store.atomic import sha256
from robustdistill.store.weights import load_into, read_weights, recognise
from robustdistill.types import Dataset, Objective, Split, Splits, Weights

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
    build = _factory(spec.student, registry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(spec.seed, "student"))
        network: nn.Module = build(num_classes=len(dataset.classes), in_channels=dataset.channels)
    return network


def _factory(node: Node, registry: Registry) -> Any:
    if ":" in node.name:
        return functools.partial(_imported, node.name, node.params)
    return registry.build("model", node.name, node.params)


def _imported(name: str, params: Mapping[str, Any], **sizes: int) -> nn.Module:
    """`pkg.mod:factory`, called with `num_classes` and `in_channels` if it takes them."""
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"student {name!r} cannot be imported: {error}") from error
    takes = inspect.signature(factory).parameters
    network = factory(**{k: v for k, v in sizes.items() if k in takes}, **params)
    if not isinstance(network, nn.Module):
        raise UserError(f"student {name!r} made a {type(network).__name__}, not a torch.nn.Module")
    return network


def build_teacher(node: Node, dataset: Dataset, registry: Registry, data_name: str) -> nn.Module:
    """The frozen teacher that `NAME`, `FILE` or `ARCH@FILE` means, fitted to the run's data."""
    arch, params, path = locate_teacher(node, registry, data_name)
    weights = read_weights(path)
    if arch:
        params = {**_seen(arch, weights, registry), **params}
    else:
        arch, params = recognise(weights, registry.units("model"))
    full = registry.params("model", arch, params, f"teacher {node.name}")
    network = registry.build("model", arch, full)(num_classes=len(dataset.classes), in_channels=dataset.channels)
    load_into(network, weights, f"teacher {node.name}")
    return freeze(network)


def _seen(arch: str, weights: Weights, registry: Registry) -> dict[str, Any]:
    """The parameters, beyond those in the name, that the weights of a named architecture show."""
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
        if teacher.sha256 and sha256(teacher.path) != teacher.sha256:
            raise DamagedFile(f"{teacher.path} is not the file of teacher {node.name!r}: its sha256 differs")
        return teacher.model, {**teacher.params, **node.params}, teacher.path
    path = Path(node.name)
    if path.exists() or path.suffix in {".safetensors", ".pt", ".pth", ".bin", ".ckpt"} or len(path.parts) > 1:
        return "", {}, path
    if any(match_template(m, node.name) is not None or m == node.name for m in registry.names("model")):
        raise UserError(f"{node.name!r} is an architecture, not a trained teacher: give its file, {node.name}@FILE")
    raise UserError(f"unknown teacher {node.name!r}{nearest(node.name, teachers)} A file of weights works too.")


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
    try:
        return dry_step(build_game(spec, registry), student, shape=shape, classes=len(dataset.classes))
    except RobustDistillError:
        raise
    except Exception as error:  # of a plugin's objective, or of a student that does not take these images
        pair = f"inner {spec.inner.name!r}, outer {spec.outer.name!r}, student {spec.student.name!r}"
        raise PluginError(
            f"a trial step on device meta failed ({pair}): {error}. Objectives must not ask the host for values "
            f"(.item(), if tensor, masks), and the student must take images {list(shape)}"
        ) from error


def training_split(splits: Splits, select: str) -> Split:
    """What is learned from: `train`, and the hold-out too when the test set selects, as the papers do."""
    if select == "holdout":
        return splits.train
    parts = splits.train, splits.holdout
    return Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))


def judging_generator(seed: int, device: torch.device) -> Any:
    """The randomness of an evaluation: by seed, attack and the index of the batch's first example."""
    return lambda attack, index: generator(seed, "judge", attack, index, device=device)
