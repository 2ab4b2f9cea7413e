"""digits-net: a small, fast network for small grey images such as the 8x8 digits."""

from collections import OrderedDict
from typing import Any

from pydantic import PositiveInt
from torch import nn

from robustdistill.builtin.models.layout import params_if_fitting
from robustdistill.types import Weights


def build(*, num_classes: int, in_channels: int, width: PositiveInt = 16) -> nn.Module:
    """Five 3x3 convolutions with BatchNorm and ReLU: w, w, w (stride 2), w, 2w (stride 2); mean; linear.

    45 w^2 + (9 in_channels + 12 + 2 num_classes) w + num_classes parameters: 12,186 for 10 classes, grey and
    width 16 (a student); 105,658 for width 48 (a teacher). Of the shapes tried under adversarial training
    on the digits, this one was the most robust for its size.

    Images `[B, in_channels, H, W]` in [0, 1], any H, W; logits `[B, num_classes]`.
    """
    return nn.Sequential(
        OrderedDict(
            stage1=_stage(in_channels, width),
            stage2=_stage(width, width),
            stage3=_stage(width, width, stride=2),
            stage4=_stage(width, width),
            stage5=_stage(width, 2 * width, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(2 * width, num_classes),
        )
    )


def recognise(weights: Weights) -> dict[str, Any] | None:
    """{"width": w} if these are the weights of a digits-net, else None."""
    stem = "stage1.conv.weight"
    if stem not in weights:
        return None
    return params_if_fitting(weights, build, stem=stem, head="linear.weight", width=weights[stem].shape[0])


def _stage(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs), relu=nn.ReLU()))
