"""Pre-activation ResNet-18 with Swish as DeepMind defines it: the small robust networks of the last years."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.builtin.models.swish_wrn import InsideNormalisation, inside_statistics, same_padded
from robustdistill.types import Weights


def build(*, num_classes: int, in_channels: int, normalisation: InsideNormalisation = "auto") -> nn.Module:
    """PreAct ResNet-18 with x sigmoid(x) and 3x3 projections; 12,548,426 parameters for 10 RGB classes.

    Images `[B, in_channels, H, W]` in [0, 1], which it normalises itself, by the rules of the Wide ResNets with
    Swish; logits `[B, num_classes]`. What projects is a 3x3 convolution of the raw input, with biasless weights as
    all of them; at stride 2 everything is padded as TensorFlow's SAME does.
    Source: Gowal et al. 2020 (arXiv 2010.03593) and Rebuffi et al. 2021, with the key names of their PyTorch code.
    """
    return SwishPreActResNet18(num_classes, in_channels, *inside_statistics(normalisation, num_classes, in_channels))


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{} (there are no parameters) if these are the weights of such a network (Swish leaves no trace), else None."""
    return params_if_fitting(weights, build, stem="conv_2d.weight", head="logits.weight")


class SwishPreActResNet18(nn.Module):
    """Normalisation, a stem, four stages of two blocks with 64 to 512 channels, and a classifier."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int, in_channels: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.conv_2d = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.layer_0 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer_1 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer_2 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer_3 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.batchnorm = nn.BatchNorm2d(512)
        self.logits = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_2d((x - self.mean) / self.std)
        out = self.layer_3(self.layer_2(self.layer_1(self.layer_0(out))))
        logits: Tensor = self.logits(F.silu(self.batchnorm(out)).mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """conv(silu(bn(conv(silu(bn(x)))))) + shortcut: a 3x3 convolution of x where the shape changes, else x."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=int(stride == 1), bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False) if stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(same_padded(x))
        active = F.silu(self.batchnorm_0(x))
        hidden = self.conv_2d_1(active if self.shortcut is None else same_padded(active))
        out: Tensor = self.conv_2d_2(F.silu(self.batchnorm_1(hidden)))
        return out + shortcut
