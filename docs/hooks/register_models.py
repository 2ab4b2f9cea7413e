"""The architecture `one-conv`: a convolution, a mean over the image, a linear layer."""

from torch import nn

from robustdistill import Model, hookimpl


def build(*, num_classes: int, in_channels: int, width: int = 32) -> nn.Module:
    """`width` is the number of filters."""
    features = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


@hookimpl
def register_models() -> dict[str, Model]:
    return {"one-conv": Model(build, summary="one convolution, for images of any size")}
