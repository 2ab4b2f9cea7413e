"""What architectures there are by name and how large they are, counted on device meta: no data, no weights."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robustdistill import hub
from robustdistill.engine.work import forward_flops
from robustdistill.errors import RobustDistillError, UserError, nearest
from robustdistill.factory import built
from robustdistill.registry import Registry, match_template
from robustdistill.spec import Node

CLASSES, IMAGE = 10, (3, 32, 32)  # what is counted for
MOST = 40  # of timm's networks are counted at once: each takes a moment


@dataclass(frozen=True)
class Architecture:
    """A registered name, or a name of a family; what a network of `CLASSES` classes has and does for one `IMAGE`.

    `parameters` and `macs`, multiplications with an addition each in convolutions and matrix products, are None for a
    family, for what was not to be counted, and where a network cannot be made for such images or run on device meta.
    """

    name: str
    family: str
    summary: str
    layout: str
    origin: str
    parameters: int | None = None
    macs: float | None = None


def find(registry: Registry, pattern: str | None = None, counted: bool = True) -> list[Architecture]:
    """The architectures whose names fit `pattern`, a glob; a family is followed by its examples.

    A name that only a family knows, such as wrn-40-2, and names of timm's behind `timm:` are found too. Raises
    UserError if nothing fits.
    """
    found = [(n, f) for n, f in _registered(registry) if pattern is None or fnmatch.fnmatchcase(n, pattern)]
    if not found and pattern is not None:
        found = [(name, _family(name, registry)) for name in _of_families(pattern, registry)]
    if not found and pattern is not None:
        raise UserError(f"none of the models is named {pattern!r}{nearest(pattern, registry.names('model'))}")
    return [_told(name, family, registry, counted and len(found) <= MOST) for name, family in found]


def _registered(registry: Registry) -> Iterator[tuple[str, str]]:
    """Every name with its family, "" for none."""
    for name, model in registry.units("model").items():
        yield name, ""
        yield from ((example, name) for example in model.examples)


def _of_families(pattern: str, registry: Registry) -> list[str]:
    if pattern.startswith(hub.TIMM):
        return [hub.TIMM + name for name in hub.networks(pattern.removeprefix(hub.TIMM))]
    return [pattern] if registry.knows("model", pattern) else []


def _family(name: str, registry: Registry) -> str:
    return next(known for known in registry.names("model") if match_template(known, name) is not None)


def _told(name: str, family: str, registry: Registry, counted: bool) -> Architecture:
    entry = registry.entry("model", name)
    network = None if not counted or "{" in name else _made(name, registry)
    size: dict[str, Any] = {}
    if network is not None:
        flops = forward_flops(network, (1, *IMAGE))
        size = {"parameters": sum(p.numel() for p in network.parameters()), "macs": flops / 2 or None}
    return Architecture(name, family, entry.unit.summary, entry.unit.layout, entry.origin, **size)


def _made(name: str, registry: Registry) -> nn.Module | None:
    try:
        node, (channels, size, _) = Node(name=name, **registry.params("model", name, {}, name)), IMAGE
        with torch.device("meta"):
            return built(node, registry, classes=CLASSES, channels=channels, size=size)
    except RobustDistillError:  # not for such images, or not without parameters of its own
        return None
