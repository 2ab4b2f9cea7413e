"""Wide ResNets with Swish as DeepMind defines them: most of the strongest robust teachers that are published."""

from collections import OrderedDict
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.builtin.models.wide_resnet import blocks_per_group
from robustdistill.errors import UserError
from robustdistill.normalise import Normalisation, statistics
from robustdistill.types import Weights

InsideNormalisation = Literal["auto"] | Normalisation


def build(
    *,
    num_classes: int,
    in_channels: int,
    depth: PositiveInt,
    width: PositiveInt,
    normalisation: InsideNormalisation = "auto",
) -> nn.Module:
    """WRN-depth-width-swish: pre-activation blocks with x sigmoid(x), (depth - 4) / 6 blocks in each of 3 groups.

    Images `[B, in_channels, H, W]` in [0, 1]; logits `[B, num_classes]`. It computes (x - mean) / std itself:
    with the statistics of CIFAR-100 for 100 classes of RGB images, of CIFAR-10 for any other number, and not at
    all for other images. RSLAD runs its 100-class teacher with `normalisation="cifar10"`. Weights that hold
    `mean` and `std` bring their own. As many parameters as TRADES' class: WRN-70-16 has 266,796,506 for 10
    RGB classes. Raises UserError for a depth that is not 6n + 4.
    Source: Gowal et al. 2020 (arXiv 2010.03593), with the key names of the PyTorch code that they published.
    """
    mean, std = inside_statistics(normalisation, num_classes, in_channels)
    return SwishWideResNet(blocks_per_group(depth), width, num_classes, in_channels, mean, std)


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{"depth", "width"} if these are the weights of a DeepMind Wide ResNet (Swish leaves no trace), else None."""
    blocks = 0
    while f"layer.0.block.{blocks}.conv_0.weight" in weights:
        blocks += 1
    width = weights["layer.0.block.0.conv_0.weight"].shape[0] // 16 if blocks else 0
    if not width:
        return None
    sizes = {"depth": 6 * blocks + 4, "width": width}
    return params_if_fitting(weights, build, stem="init_conv.weight", head="logits.weight", **sizes)


class SwishWideResNet(nn.Module):
    """Normalisation, a stem, three groups with 16, 32 and 64 times `width` channels, and a classifier."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, blocks: int, width: int, num_classes: int, in_channels: int, mean: list[float], std: list[float]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.init_conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            _group(blocks, 16, 16 * width),
            _group(blocks, 16 * width, 32 * width, stride=2),
            _group(blocks, 32 * width, 64 * width, stride=2),
        )
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.logits = nn.Linear(64 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(self.init_conv((x - self.mean) / self.std))
        logits: Tensor = self.logits(F.silu(self.batchnorm(out)).mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """conv(silu(bn(conv(a)))) + shortcut, a = silu(bn(x)); a projection of a where the width changes, else x.

    At stride 2 the first convolution pads as TensorFlow's SAME does: nothing before an even side, one after it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=int(stride == 1), bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.silu(self.batchnorm_0(x))
        padded = active if self.conv_0.padding[0] else same_padded(active)
        out: Tensor = self.conv_1(F.silu(self.batchnorm_1(self.conv_0(padded))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _group(blocks: int, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(block=nn.Sequential(Block(inputs, outputs, stride), *rest)))


def same_padded(x: Tensor) -> Tensor:
    """`x` as TensorFlow's SAME pads it for a 3x3 convolution of stride 2: after each side, before an odd one too."""
    height, width = x.shape[-2:]
    return F.pad(x, (width % 2, 1, height % 2, 1))


def inside_statistics(
    normalisation: InsideNormalisation, num_classes: int, channels: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel; "auto" goes by the number of classes and leaves what is not RGB."""
    if normalisation == "none" or (normalisation == "auto" and channels != 3):
        return [0.0] * channels, [1.0] * channels
    if normalisation not in ("auto", "half") and channels != 3:
        raise UserError(f"normalisation {normalisation!r} is for images of 3 channels, not {channels}; use 'auto'")
    own = "cifar100" if num_classes == 100 else "cifar10"
    return statistics(own if normalisation == "auto" else normalisation, channels)
