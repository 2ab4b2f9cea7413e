"""Architectures and trained networks by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Model:
    """An architecture: `build(num_classes, in_channels, **params)`; input in [0, 1], output logits.

    `recognise(weights)` tells from a checkpoint's keys whether it fits and with which parameters
    (None: not this architecture). A name may hold integer fields: "wrn-{depth}-{width}".
    """

    build: Callable[..., nn.Module]
    recognise: Callable[[Weights], Mapping[str, Any] | None] | None = None
    summary: str = ""


@dataclass(frozen=True)
class Teacher:
    """A trained network: an architecture by name and its weights, with what is known of them.

    `path` is None for weights that must be brought as a file (`--teacher NAME@FILE`). Accuracies in [0, 1];
    `robust` by attack, at the radius `eps`.
    """

    model: str
    path: Path | None
    dataset: str
    params: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    clean: float | None = None
    robust: Mapping[str, float] = field(default_factory=dict)
    eps: float | None = None
    licence: str = ""
    notes: str = ""
