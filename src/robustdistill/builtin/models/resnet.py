"""ResNet-18 for 32x32 images: the student of the ARD papers."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.normalise import Normalisation, normalised
from robustdistill.types import Weights


def build(*, num_classes: int, in_channels: int, normalisation: Normalisation | None = None) -> nn.Module:
    """ResNet-18 with a 3x3 stem of stride 1 and no max-pooling; 11,173,962 parameters for 10 RGB classes.

    Images `[B, in_channels, H, W]` in [0, 1]; logits `[B, num_classes]`. At 32x32 the mean over the last
    feature map is the 4x4 average pooling of the ARD code bases, whose key names are kept.
    Source: He et al. 2016, in the CIFAR form that RSLAD, IAD and ARD use.
    """
    return normalised(ResNet18(num_classes, in_channels), normalisation, in_channels)


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{} (there are no parameters) if these are the weights of a ResNet-18, else None."""
    return params_if_fitting(weights, build, stem="conv1.weight", head="linear.weight")


class ResNet18(nn.Module):
    """Four stages of two blocks, widths 64 to 512, each stage after the first halving the resolution."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64), Block(64, 64))
        self.layer2 = nn.Sequential(Block(64, 128, stride=2), Block(128, 128))
        self.layer3 = nn.Sequential(Block(128, 256, stride=2), Block(256, 256))
        self.layer4 = nn.Sequential(Block(256, 512, stride=2), Block(512, 512))
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), the shortcut projecting where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))
