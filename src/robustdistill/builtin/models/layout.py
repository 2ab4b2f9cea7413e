"""Telling an architecture from the keys and shapes of its weights, without computing anything."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.types import Weights


def params_if_fitting(
    weights: Weights, build: Callable[..., nn.Module], *, stem: str, head: str, **params: Any
) -> dict[str, Any] | None:
    """`params` if `build(**params)` has exactly the keys and shapes of `weights`, else None.

    Args: stem, head: the keys of the first convolution `[width, in_channels, k, k]` and of the classifier
    `[num_classes, features]`, which tell the two sizes that are not parameters.
    """
    first, last = weights.get(stem), weights.get(head)
    if first is None or last is None or first.ndim != 4 or last.ndim != 2:
        return None
    with torch.device("meta"):
        module = build(num_classes=last.shape[0], in_channels=first.shape[1], **params)
    return params if _layout(module.state_dict()) == _layout(weights) else None


def _layout(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    # BatchNorm's step counter is missing from old checkpoints and from many averaged ones; nothing reads it.
    # Networks that normalise their input are published with their mean and std and, as constants, without.
    optional = ("mean", "std")
    return {k: v.shape for k, v in weights.items() if k not in optional and not k.endswith("num_batches_tracked")}
