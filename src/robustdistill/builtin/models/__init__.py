"""The built-in architectures: images in [0, 1] of any size from 8x8, raw logits out; normalisation, if any, inside."""

from robustdistill.builtin.models import (
    cifar_resnet,
    digits_net,
    mobilenet,
    preact_resnet,
    preact_swish,
    resnet,
    swish_wrn,
    timm_networks,
    wide_resnet,
)
from robustdistill.hookspecs import hookimpl
from robustdistill.types import Model

BASIC = "layer{1..4}.N.{conv1, bn1, conv2, bn2, shortcut.0, shortcut.1}"


@hookimpl
def register_models() -> dict[str, Model]:
    """Small networks by name, families by depth and width, and every network of timm's."""
    return {
        "digits-net": Model(
            digits_net.build,
            digits_net.recognise,
            "five 3x3 convolutions for small grey images",
            "stage{1..5}.{conv, bn}, linear",
        ),
        "rn-18": Model(
            resnet.build,
            resnet.recognise,
            "ResNet-18 with the CIFAR stem",
            f"conv1, bn1, {BASIC}, linear",
        ),
        "mn-v2": Model(
            mobilenet.build,
            mobilenet.recognise,
            "MobileNet-V2 with the CIFAR stem",
            "conv1, bn1, layers.N.{conv1, bn1, conv2, bn2, conv3, bn3, shortcut.0, shortcut.1}, conv2, bn2, linear",
        ),
        "preact-rn-18": Model(
            preact_resnet.build,
            preact_resnet.recognise,
            "PreAct ResNet-18 of RobustBench",
            "conv1, layer{1..4}.N.{bn1, conv1, bn2, conv2, shortcut.0}, bn (or none), linear",
        ),
        "preact-rn-18-swish": Model(
            preact_swish.build,
            preact_swish.recognise,
            "PreAct ResNet-18 of DeepMind, normalises its input",
            "conv_2d, layer_{0..3}.N.{batchnorm_0, conv_2d_1, batchnorm_1, conv_2d_2, shortcut}, batchnorm, logits",
        ),
        "resnet-{depth}": Model(
            cifar_resnet.build,
            cifar_resnet.recognise,
            "ResNet of 6n + 2 layers, 16 to 64 channels",
            "conv1, bn1, layer{1..3}.N.{conv1, bn1, conv2, bn2, downsample.0, downsample.1}, fc",
            ("resnet-20", "resnet-56"),
        ),
        "wrn-{depth}-{width}": Model(
            wide_resnet.build,
            wide_resnet.recognise,
            "Wide ResNet of TRADES",
            "conv1, block{1,2,3}.layer.N.{bn1, conv1, bn2, conv2, convShortcut}, sub_block1 (or none), bn1, fc",
            ("wrn-28-10", "wrn-34-10", "wrn-34-20", "wrn-70-16"),
        ),
        "wrn-{depth}-{width}-swish": Model(
            swish_wrn.build,
            swish_wrn.recognise,
            "Wide ResNet of DeepMind, normalises its input",
            "init_conv, layer.{0,1,2}.block.N.{batchnorm_0, conv_0, batchnorm_1, conv_1, shortcut}, batchnorm, logits",
            ("wrn-28-10-swish", "wrn-70-16-swish"),
        ),
        "timm:{network}": Model(timm_networks.build, None, "any network of timm's, untrained", "timm's own names"),
    }
