"""The built-in architectures: images in [0, 1] of any size from 8x8, raw logits out; normalisation, if any, inside."""

from robustdistill.builtin.models import digits_net, mobilenet, resnet, swish_wrn, wide_resnet
from robustdistill.hookspecs import hookimpl
from robustdistill.types import Model


@hookimpl
def register_models() -> dict[str, Model]:
    """digits-net, rn-18, mn-v2 and the families wrn-{depth}-{width} and wrn-{depth}-{width}-swish."""
    return {
        "digits-net": Model(digits_net.build, digits_net.recognise, "five 3x3 convolutions for small grey images"),
        "rn-18": Model(resnet.build, resnet.recognise, "ResNet-18 with the CIFAR stem, 11.2 M parameters"),
        "mn-v2": Model(mobilenet.build, mobilenet.recognise, "MobileNet-V2 with the CIFAR stem, 2.3 M parameters"),
        "wrn-{depth}-{width}": Model(
            wide_resnet.build, wide_resnet.recognise, "Wide ResNet of TRADES; wrn-34-10 has 46.2 M parameters"
        ),
        "wrn-{depth}-{width}-swish": Model(
            swish_wrn.build,
            swish_wrn.recognise,
            "Wide ResNet of DeepMind, normalises its input; wrn-70-16-swish has 266.8 M parameters",
        ),
    }
