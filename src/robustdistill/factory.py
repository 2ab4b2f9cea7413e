"""Networks by name: a registered architecture, or somebody's own `pkg.mod:factory`."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from robustdistill.errors import UserError
from robustdistill.registry import Registry, callable_of
from robustdistill.spec import Node

CLASSES, IMAGE_SIZE = "num_classes", "image_size"
TRAINED = ("hf-hub:", "local-dir:")


def built(node: Node, registry: Registry, *, classes: int, channels: int, size: int) -> nn.Module:
    """The network that `node` names, untrained, for images `[channels, size, size]`.

    UserError for the name of trained weights. One that is made for one size of image is told it.
    """
    return _factory(node, registry, size)(num_classes=classes, in_channels=channels)


def _factory(node: Node, registry: Registry, image_size: int) -> Callable[..., nn.Module]:
    if node.name.startswith(TRAINED):
        raise UserError(
            f"{node.name!r} names trained weights; a student starts without: name its architecture, timm:NAME"
        )
    if imports(node.name, registry):
        return functools.partial(_imported, node.name, node.params, image_size=image_size)
    build: Callable[..., nn.Module] = registry.build("model", node.name, node.params)
    takes = _takes(callable_of(registry.get("model", node.name)))
    return functools.partial(build, image_size=image_size) if IMAGE_SIZE in takes else build


def imports(name: str, registry: Registry) -> bool:
    """Whether `name` is somebody's own `pkg.mod:factory`, and not a registered one with a colon (`timm:NAME`)."""
    return ":" in name and not registry.knows("model", name)


def _imported(name: str, params: Mapping[str, Any], **sizes: int) -> nn.Module:
    """`pkg.mod:factory`, called with `num_classes`, `in_channels` and `image_size` if it takes them."""
    made = _found(name)
    takes = _takes(made)
    _refuse_anything(name, made, takes, params)
    try:
        network = made(**{k: v for k, v in sizes.items() if k in takes}, **params)
    except Exception as error:
        raise UserError(
            f"{name!r} cannot be built from its name: {error}. A run that was given a module needs it again: student="
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"student {name!r} made a {type(network).__name__}, not a torch.nn.Module")
    return network


def _found(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(f"{name!r} is part of Python, where no networks are; nothing of it was called")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"student {name!r} cannot be imported: {error}") from error


def _takes(made: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(made).parameters
    except (TypeError, ValueError):
        return {}


def _refuse_anything(name: str, made: Any, takes: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """A spec may come from a stranger: what it names and what it hands over must not add up to any call at all."""
    network = isinstance(made, type) and issubclass(made, nn.Module)
    if params and not network and CLASSES not in takes:
        raise UserError(
            f"{name!r} is no class of networks and takes no {CLASSES}: it may be any function, and a spec gives such a "
            f"one no parameters ({', '.join(params)}); name a function of yours that takes {CLASSES} and these"
        )
