"""Pre-activation ResNet-18 for 32x32 images, in the layout of the PyTorch code that robust training began with."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.normalise import Normalisation, normalised
from robustdistill.types import Weights

Projection = Literal["activated", "raw"]


def build(
    *,
    num_classes: int,
    in_channels: int,
    final_norm: bool = True,
    projection: Projection = "activated",
    normalisation: Normalisation | None = None,
) -> nn.Module:
    """PreAct ResNet-18 with ReLU and a 3x3 stem of stride 1; 11,172,170 parameters for 10 RGB classes.

    Images `[B, in_channels, H, W]` in [0, 1]; logits `[B, num_classes]`. `final_norm`: BatchNorm and ReLU before the
    mean over the last feature map, as He et al. and Rice et al. have it; without, as Wong et al. (1,024 parameters
    fewer). `projection`: a shortcut that changes the shape sees the activated input, as He et al., or the raw one.
    Source: He et al. 2016 (arXiv 1603.05027), with the key names of RobustBench's PreActResNet.
    """
    return normalised(PreActResNet18(num_classes, in_channels, final_norm, projection), normalisation, in_channels)


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{"final_norm", "projection"} if these are the weights of such a network, else None.

    Keys show the last BatchNorm, not what the projection sees: RobustBench's networks without the one project the raw
    input, those with it the activated one.
    """
    final = "bn.weight" in weights
    params = {"final_norm": final, "projection": "activated" if final else "raw"}
    return params_if_fitting(weights, build, stem="conv1.weight", head="linear.weight", **params)


class PreActResNet18(nn.Module):
    """Four stages of two blocks, widths 64 to 512, each stage after the first halving the resolution."""

    def __init__(self, num_classes: int, in_channels: int, final_norm: bool, projection: Projection) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(Block(64, 64, 1, projection), Block(64, 64, 1, projection))
        self.layer2 = nn.Sequential(Block(64, 128, 2, projection), Block(128, 128, 1, projection))
        self.layer3 = nn.Sequential(Block(128, 256, 2, projection), Block(256, 256, 1, projection))
        self.layer4 = nn.Sequential(Block(256, 512, 2, projection), Block(512, 512, 1, projection))
        self.bn = nn.BatchNorm2d(512) if final_norm else None
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            out = F.relu(self.bn(out))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """conv(relu(bn(conv(a)))) + shortcut, a = relu(bn(x)); the shortcut projects a, or x, where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: Projection) -> None:
        super().__init__()
        self.raw = projection == "raw"
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(x if self.raw else active))
