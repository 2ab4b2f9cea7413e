"""MobileNet-V2 for 32x32 images: the small student of the ARD papers."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.normalise import Normalisation, normalised
from robustdistill.types import Weights

# Expansion, outputs, blocks, stride of the first block. Its ImageNet form halves the resolution at 24 outputs too.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def build(*, num_classes: int, in_channels: int, normalisation: Normalisation | None = None) -> nn.Module:
    """MobileNet-V2 with a 3x3 stem of stride 1, ReLU and no dropout; 2,296,922 parameters for 10 RGB classes.

    Images `[B, in_channels, H, W]` in [0, 1]; logits `[B, num_classes]`. At 32x32 the mean over the last
    feature map is the 4x4 average pooling of the ARD code bases, whose key names are kept. It is not
    torchvision's network of that name.
    Source: Sandler et al. 2018, in the CIFAR form that RSLAD, IAD and ARD use.
    """
    return normalised(MobileNetV2(num_classes, in_channels), normalisation, in_channels)


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{} (there are no parameters) if these are the weights of a MobileNet-V2 of this form, else None."""
    return params_if_fitting(weights, build, stem="conv1.weight", head="linear.weight")


class MobileNetV2(nn.Module):
    """A stem of 32 channels, 17 blocks in seven stages, 1280 features, their mean and a classifier."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layers = _stages(32)
        self.conv2 = nn.Conv2d(STAGES[-1][1], 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        out = F.relu(self.bn2(self.conv2(out)))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """1x1 expansion, 3x3 convolution of each channel alone, 1x1 projection without ReLU; plus a shortcut.

    The shortcut is there at stride 1 alone, and projects x where the width changes.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1
        hidden = expansion * inputs
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if self.residual and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        narrow: Tensor = self.bn3(self.conv3(out))
        return narrow + self.shortcut(x) if self.residual else narrow


def _stages(inputs: int) -> nn.Sequential:
    blocks = []
    for expansion, outputs, count, stride in STAGES:
        for index in range(count):
            blocks.append(Block(inputs, outputs, expansion, stride if index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*blocks)
