"""Any network of timm's by its name, untrained: `timm:NAME`."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from robustdistill.errors import UserError, nearest
from robustdistill.normalise import Normalisation, normalised

Stem = Literal["default", "cifar"]


def build(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    network: str,
    stem: Stem = "default",
    normalisation: Normalisation | None = None,
) -> nn.Module:
    """timm's `network` with fresh weights, for images `[B, in_channels, image_size, image_size]` in [0, 1].

    Networks that are made for one size of image are made for `image_size`. `stem = "cifar"` replaces the first
    convolution, where it halves the resolution, by a 3x3 one of stride 1, and leaves out a max-pooling after it: what a
    network for 224x224 needs at 32x32. Raises UserError for a name that timm does not know, a network that cannot be
    made for these images, and one without such a stem.
    """
    import timm  # here and not above: it takes seconds

    if not timm.is_model(network):
        told = nearest(network, timm.list_models(), "robustdistill list models 'timm:*'")
        raise UserError(f"timm has no network {network!r}{told}")
    config: Any = timm.get_pretrained_cfg(network)
    fixed: Any = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    shape = (1, in_channels, image_size, image_size)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # no patch fits: the forward fails
            made: nn.Module = timm.create_model(
                network, pretrained=False, num_classes=num_classes, in_chans=in_channels, **fixed
            )
        _try(made, shape)
    except Exception as error:  # it may be made for some sizes or channels only
        side = " x ".join(map(str, shape[1:]))
        raise UserError(f"timm:{network} cannot be made for images {side}: {error}; choose another student") from error
    if stem == "cifar":
        first = config.first_conv if config is not None else None
        try:
            _open_stem(made, first)
            _try(made, shape)
        except Exception as error:  # later parts may count on the resolution that the stem leaves
            raise UserError(
                f"timm:{network} has no stem of one convolution of stride 2 and at most one pooling after it; leave "
                "student.stem out, or choose a ResNet"
            ) from error
    return normalised(made, normalisation, in_channels)


def _open_stem(made: nn.Module, name: Any) -> None:
    """Opens the stem whose first convolution is called `name`, or by the first of several; ValueError if it cannot."""
    first = name[0] if isinstance(name, tuple | list) and name else name
    conv, pools = dict(made.named_modules()).get(first or ""), list(_pools(made))
    if not isinstance(conv, nn.Conv2d) or not conv.stride[0] == 2 < conv.kernel_size[0] or len(pools) > 1:
        raise ValueError(f"{first} does not halve the resolution, or there are {len(pools)} poolings")
    kind: Any = type(conv)  # some standardise their weights
    opened = kind(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=conv.bias is not None)
    made.set_submodule(first, opened)
    for pool in pools:
        made.set_submodule(pool, nn.Identity())


def _try(made: nn.Module, shape: tuple[int, ...]) -> None:
    """A forward on device meta, which raises what the network raises for such images."""
    copy.deepcopy(made).to("meta").eval()(torch.empty(shape, device="meta"))


def _pools(made: nn.Module) -> Iterator[str]:
    """The max-poolings, whole where a blur or the like belongs to one."""
    if isinstance(getattr(made, "maxpool", None), nn.Module):
        yield "maxpool"
    else:
        yield from (name for name, module in made.named_modules() if isinstance(module, nn.MaxPool2d))
