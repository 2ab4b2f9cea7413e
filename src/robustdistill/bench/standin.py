"""Random images and teachers in the place of those that are not at hand: they take as long to compute with."""

from collections.abc import Mapping

import torch
from torch import nn

from robustdistill.data.keys import generator, key
from robustdistill.engine.execution import freeze
from robustdistill.errors import UserError
from robustdistill.factory import built
from robustdistill.located import locate_teacher
from robustdistill.modes import seeded
from robustdistill.registry import Registry
from robustdistill.spec import Node, RunSpec
from robustdistill.types import Dataset, Split, Splits

TRAIN, HOLDOUT = 48_000, 2_000  # CIFAR-10's


def images_missing(spec: RunSpec, dataset: Dataset) -> bool:
    """Whether the data set is not at hand: it needs a folder and none is named."""
    return dataset.needs_dir and spec.data.dir is None


def splits_for(spec: RunSpec, dataset: Dataset) -> Splits | None:
    """Random images where the data set is not at hand."""
    if not images_missing(spec, dataset):
        return None
    draws = generator(spec.seed, "bench images")

    def split(n: int) -> Split:
        shape = (n, dataset.channels, dataset.size, dataset.size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
        return Split(images, torch.randint(0, len(dataset.classes), (n,), generator=draws))

    return Splits(train=split(TRAIN), holdout=split(HOLDOUT), test=split(HOLDOUT))


def teachers_for(spec: RunSpec, dataset: Dataset, registry: Registry) -> Mapping[str, nn.Module]:
    """Random networks, by role, for the teachers that bring no weights, or would have to be downloaded."""
    made = {}
    for role, node in spec.teachers.items():
        try:
            missing = locate_teacher(node, registry, spec.data.name).missing
        except UserError:
            missing = True
        if missing:
            made[role] = _random(spec.seed, node.name, node.params, dataset, registry)
    return made


def _random(seed: int, name: str, params: Mapping[str, object], dataset: Dataset, registry: Registry) -> nn.Module:
    known = registry.units("teacher").get(name)
    arch, given = (known.model, {**known.params, **params}) if known else (name, dict(params))
    with seeded(key(seed, "bench teacher"), torch.device("cpu")):
        made = Node(name=arch, **registry.params("model", arch, given, f"teacher {name}"))
        network = built(made, registry, **dataset.sizes)
        return freeze(_settled(network, torch.rand(16, dataset.channels, dataset.size, dataset.size)))


@torch.no_grad()
def _settled(network: nn.Module, x: torch.Tensor) -> nn.Module:
    # Untrained running statistics let activations of deep networks grow out of bounds.
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    network.train()(x)
    return network
