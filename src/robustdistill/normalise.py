"""Normalisation of images inside a network, so that whoever attacks it moves pixels in [0, 1]."""

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from robustdistill.errors import UserError
from robustdistill.types import Weights

Normalisation = Literal["none", "cifar10", "cifar100", "cifar10-image-std", "imagenet", "half"]
STATISTICS = {  # mean and standard deviation of R, G and B over training images
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    # The mean of each image's own standard deviation: what many clean CIFAR-10 networks were trained with.
    "cifar10-image-std": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
MEAN, STD = re.compile(r"(normalize\.)?(mean|mu)"), re.compile(r"(normalize\.)?(std|sigma)")


class Normalised(nn.Module):
    """model((x - mean) / std), per channel: x is in [0, 1] for whoever attacks it."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x - self.mean) / self.std)
        return logits


def statistics(name: str, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each of `channels` by name. UserError for a name that is for other channels."""
    if name == "half":
        return [0.5] * channels, [0.5] * channels
    if channels != 3:
        raise UserError(f"normalisation {name!r} is for images of 3 channels, not {channels}; use 'none' or 'half'")
    mean, std = STATISTICS[name]
    return list(mean), list(std)


def normalised(model: nn.Module, name: Normalisation | None, channels: int) -> nn.Module:
    """`model` behind the normalisation `name`; itself for none. UserError for one that is for other channels."""
    return model if name in (None, "none") else Normalised(model, *statistics(name, channels))


def as_the_weights(model: nn.Module, weights: Weights, channels: int) -> tuple[nn.Module, Weights]:
    """`model` and `weights`, such that a normalisation that the weights hold is done, and by its buffers alone.

    (x - mean) / std, whatever the buffers are called; a missing one is 0 or 1. A model that normalises already is not
    wrapped. What is not one positive number a channel, or belongs to `model` under its own name, is left as it is.
    """
    found = {kind: [k for k in weights if name.fullmatch(k)] for kind, name in (("mean", MEAN), ("std", STD))}
    held = [k for keys in found.values() for k in keys]
    own = model.state_dict()
    sound = all(weights[k].numel() in (1, channels) for k in held) and all((weights[k] > 0).all() for k in found["std"])
    if not held or set(held) <= set(own) or max(map(len, found.values())) > 1 or not sound:
        return model, weights
    plain = {kind: weights[keys[0]].flatten().expand(channels).view(-1, 1, 1) for kind, keys in found.items() if keys}
    if not {"mean", "std"} <= set(own):
        model = Normalised(model, [0.0] * channels, [1.0] * channels)
    return model, {k: v for k, v in weights.items() if k not in held} | plain
