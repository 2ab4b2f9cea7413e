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
    (None: not this architecture). A name may hold integer fields, "wrn-{depth}-{width}", or text after a colon.
    `build` is given `image_size` (the side in pixels) too if it has such a parameter. `layout` tells the key names of
    its weights; `examples` are names of a family to count parameters of.
    """

    build: Callable[..., nn.Module]
    recognise: Callable[[Weights], Mapping[str, Any] | None] | None = None
    summary: str = ""
    layout: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Teacher:
    """A trained network: an architecture by name and its weights, with what is known of them.

    `path`: the file of weights. Where it is None they are downloaded, once, from the first of `sources` that gives
    them; without any they must be brought (`--teacher NAME@FILE`). A source is a URL, or hf:USER/REPO/FILE for a file
    on the Hugging Face hub. `sha256` and `size` (bytes) are the file's, where they are known beforehand.

    `names`: what the network is called besides, RobustBench's id among them. Teachers of other data sets may be called
    the same: a name means one together with the run's data set.

    Accuracies in [0, 1]; `robust` by attack, at the radius `eps`. `preprocessing` says what the network does to images
    in [0, 1] itself; `paper` is its title and address.
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
    names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    size: int | None = None
    preprocessing: str = ""
    paper: str = ""
