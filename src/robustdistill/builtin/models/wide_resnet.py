"""Wide ResNets as TRADES defines them: the robust teachers of the ARD papers."""

from collections import OrderedDict
from typing import Any

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.errors import UserError
from robustdistill.normalise import Normalisation, normalised
from robustdistill.types import Weights


def build(
    *,
    num_classes: int,
    in_channels: int,
    depth: PositiveInt,
    width: PositiveInt,
    dead_block: bool = False,
    normalisation: Normalisation | None = None,
) -> nn.Module:
    """WRN-depth-width: pre-activation blocks with ReLU, no dropout, (depth - 4) / 6 blocks in each of 3 groups.

    Images `[B, in_channels, H, W]` in [0, 1]; logits `[B, num_classes]`. WRN-34-10 has 46,160,474 parameters
    for 10 RGB classes. `dead_block` adds the group `sub_block1` that TRADES' class builds and never runs
    (2,102,112 parameters more): only weights that hold it need it. At 32x32 the mean over the last feature
    map is TRADES' 8x8 average pooling. Raises UserError for a depth that is not 6n + 4.
    Source: Zagoruyko & Komodakis 2016, with the key names of TRADES (Zhang et al. 2019).
    """
    network = WideResNet(blocks_per_group(depth), width, num_classes, in_channels, dead_block)
    return normalised(network, normalisation, in_channels)


def blocks_per_group(depth: int) -> int:
    """n of a depth of 6n + 4 layers: three groups, two 3x3 convolutions a block. UserError for another depth."""
    if depth < 10 or depth % 6 != 4:
        raise UserError(f"a Wide ResNet has 6n + 4 layers (10, 16, 22, 28, 34, 40, ...), not {depth}")
    return (depth - 4) // 6


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{"depth", "width", "dead_block"} if these are the weights of a TRADES Wide ResNet, else None."""
    blocks = 0
    while f"block1.layer.{blocks}.conv1.weight" in weights:
        blocks += 1
    width = weights["block1.layer.0.conv1.weight"].shape[0] // 16 if blocks else 0
    if not width:
        return None
    dead = any(key.startswith("sub_block1.") for key in weights)
    sizes = {"depth": 6 * blocks + 4, "width": width, "dead_block": dead}
    return params_if_fitting(weights, build, stem="conv1.weight", head="fc.weight", **sizes)


class WideResNet(nn.Module):
    """A stem, three groups of `blocks` blocks with 16, 32 and 64 times `width` channels, and a classifier."""

    def __init__(self, blocks: int, width: int, num_classes: int, in_channels: int, dead_block: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = _group(blocks, 16, 16 * width)
        if dead_block:
            self.sub_block1 = _group(blocks, 16, 16 * width)
        self.block2 = _group(blocks, 16 * width, 32 * width, stride=2)
        self.block3 = _group(blocks, 32 * width, 64 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(out)).mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """conv(relu(bn(conv(a)))) + shortcut, a = relu(bn(x)); a projection of a where the width changes, else x."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


def _group(blocks: int, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(layer=nn.Sequential(Block(inputs, outputs, stride), *rest)))


def _initialise(module: nn.Module) -> None:
    # Normal with variance 2 / (k^2 outputs), as TRADES; BatchNorm starts at (1, 0) by itself. Not on meta, where
    # nothing is drawn and `normal_` imports torch's compiler: a second for each program that recognises weights.
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
