"""ResNets of 6n + 2 layers for 32x32 images: ResNet-56 is the clean CIFAR-10 teacher of MTARD and its successors."""

from typing import Any

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.errors import UserError
from robustdistill.normalise import Normalisation, normalised
from robustdistill.types import Weights


def build(
    *, num_classes: int, in_channels: int, depth: PositiveInt, normalisation: Normalisation | None = None
) -> nn.Module:
    """ResNet-depth with (depth - 2) / 6 blocks in each of 3 stages; ResNet-56 has 855,770 parameters, 10 RGB classes.

    Images `[B, in_channels, H, W]` in [0, 1]; logits `[B, num_classes]`. Raises UserError for a depth that is not
    6n + 2. Source: He et al. 2016, section 4.2, with projections where the shape changes and the key names of
    chenyaofo/pytorch-cifar-models, which MTARD took over.
    """
    if depth < 8 or depth % 6 != 2:
        raise UserError(
            f"a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, 110, ...), not {depth}; the wide one of 18 is rn-18"
        )
    return normalised(CifarResNet((depth - 2) // 6, num_classes, in_channels), normalisation, in_channels)


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{"depth"} if these are the weights of a CIFAR ResNet, else None."""
    blocks = 0
    while f"layer1.{blocks}.conv1.weight" in weights:
        blocks += 1
    if not blocks or "layer4.0.conv1.weight" in weights:
        return None
    return params_if_fitting(weights, build, stem="conv1.weight", head="fc.weight", depth=6 * blocks + 2)


class CifarResNet(nn.Module):
    """A stem, three stages of `blocks` blocks with 16, 32 and 64 channels, and a classifier."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.fc(out.mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), the shortcut projecting where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + (x if self.downsample is None else self.downsample(x)))


def _stage(blocks: int, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(inputs, outputs, stride), *rest)
