"""Published families of checkpoints: their keys and shapes, and what they compute, written from their layouts alone.

Nothing of the package is imported. A family is a function from classes to shapes by key, and a function from weights
by key and images to logits, in whatever precision the weights have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """Keys and shapes for a number of classes of RGB images, and the forward of weights with these keys."""

    shapes: Callable[[int], Shapes]
    forward: Callable[[Weights, Tensor], Tensor]


def weights(shapes: Shapes, seed: int = 0) -> Weights:
    """Random values that keep activations of about the same size, float32."""
    draws = torch.Generator().manual_seed(seed)
    made = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            made[key] = torch.tensor(7)
        elif len(shape) > 1:
            made[key] = torch.randn(shape, generator=draws) * (2 / torch.Size(shape[1:]).numel()) ** 0.5
        elif key.endswith(("running_var", ".weight")):
            made[key] = torch.rand(shape, generator=draws) + 0.5
        else:
            made[key] = torch.randn(shape, generator=draws) * 0.2
    return made


def _norm(name: str, channels: int) -> Shapes:
    vectors = dict.fromkeys((f"{name}.{k}" for k in ("weight", "bias", "running_mean", "running_var")), (channels,))
    return {**vectors, f"{name}.num_batches_tracked": ()}


def _conv(name: str, outputs: int, inputs: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, side, side)}


def _head(name: str, classes: int, features: int) -> Shapes:
    return {f"{name}.weight": (classes, features), f"{name}.bias": (classes,)}


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def conv(w: Weights, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)


def same(w: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution as TensorFlow pads: symmetric at stride 1, after the sides alone at stride 2 (even sides)."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)), w[f"{name}.weight"], stride=stride)


def head(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x.mean((2, 3)), w[f"{name}.weight"], w[f"{name}.bias"])


def _blocks(widths: tuple[int, ...], count: int, first: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(stage, block, inputs, outputs, stride)"""
    inputs = first
    for stage, outputs in enumerate(widths):
        for block in range(count):
            yield stage, block, inputs, outputs, 2 if stage and not block else 1
            inputs = outputs


STAGES = (64, 128, 256, 512)


# ---- ResNet-18 of the ARD code bases and RobustBench ------------------------------------------------------
def rn18_shapes(classes: int) -> Shapes:
    out = _conv("conv1", 64, 3) | _norm("bn1", 64)
    for s, b, inputs, outputs, stride in _blocks(STAGES, 2, 64):
        at = f"layer{s + 1}.{b}"
        out |= _conv(f"{at}.conv1", outputs, inputs) | _norm(f"{at}.bn1", outputs)
        out |= _conv(f"{at}.conv2", outputs, outputs) | _norm(f"{at}.bn2", outputs)
        if stride == 2:
            out |= _conv(f"{at}.shortcut.0", outputs, inputs, 1) | _norm(f"{at}.shortcut.1", outputs)
    return out | _head("linear", classes, 512)


def rn18(w: Weights, x: Tensor) -> Tensor:
    x = F.relu(norm(w, "bn1", conv(w, "conv1", x)))
    for s, b, _, _, stride in _blocks(STAGES, 2, 64):
        at = f"layer{s + 1}.{b}"
        out = F.relu(norm(w, f"{at}.bn1", conv(w, f"{at}.conv1", x, stride)))
        out = norm(w, f"{at}.bn2", conv(w, f"{at}.conv2", out))
        side = norm(w, f"{at}.shortcut.1", conv(w, f"{at}.shortcut.0", x, stride)) if stride == 2 else x
        x = F.relu(out + side)
    return head(w, "linear", x)


# ---- RobustBench's PreActResNet-18, with and without the last BatchNorm ------------------------------------
def preact_shapes(final: bool) -> Callable[[int], Shapes]:
    def shapes(classes: int) -> Shapes:
        out = _conv("conv1", 64, 3)
        for s, b, inputs, outputs, stride in _blocks(STAGES, 2, 64):
            at = f"layer{s + 1}.{b}"
            out |= _norm(f"{at}.bn1", inputs) | _conv(f"{at}.conv1", outputs, inputs)
            out |= _norm(f"{at}.bn2", outputs) | _conv(f"{at}.conv2", outputs, outputs)
            out |= _conv(f"{at}.shortcut.0", outputs, inputs, 1) if stride == 2 else {}
        return out | (_norm("bn", 512) if final else {}) | _head("linear", classes, 512)

    return shapes


def preact(w: Weights, x: Tensor) -> Tensor:
    final = "bn.weight" in w
    x = conv(w, "conv1", x)
    for s, b, _, _, stride in _blocks(STAGES, 2, 64):
        at = f"layer{s + 1}.{b}"
        a = F.relu(norm(w, f"{at}.bn1", x))
        # PreActBlockV2 (with the last norm) projects what is activated, PreActBlock what comes in.
        side = conv(w, f"{at}.shortcut.0", a if final else x, stride) if stride == 2 else x
        x = conv(w, f"{at}.conv2", F.relu(norm(w, f"{at}.bn2", conv(w, f"{at}.conv1", a, stride)))) + side
    return head(w, "linear", F.relu(norm(w, "bn", x)) if final else x)


# ---- DeepMind's PreActResNet-18 with Swish -----------------------------------------------------------------
def deepmind_preact_shapes(classes: int) -> Shapes:
    out = _conv("conv_2d", 64, 3)
    for s, b, inputs, outputs, stride in _blocks(STAGES, 2, 64):
        at = f"layer_{s}.{b}"
        out |= _norm(f"{at}.batchnorm_0", inputs) | _conv(f"{at}.conv_2d_1", outputs, inputs)
        out |= _norm(f"{at}.batchnorm_1", outputs) | _conv(f"{at}.conv_2d_2", outputs, outputs)
        out |= _conv(f"{at}.shortcut", outputs, inputs, 3) if stride == 2 else {}
    return out | _norm("batchnorm", 512) | _head("logits", classes, 512)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def deepmind_preact(w: Weights, x: Tensor) -> Tensor:
    x = conv(w, "conv_2d", x)
    for s, b, _, _, stride in _blocks(STAGES, 2, 64):
        at = f"layer_{s}.{b}"
        out = same(w, f"{at}.conv_2d_1", swish(norm(w, f"{at}.batchnorm_0", x)), stride)
        side = same(w, f"{at}.shortcut", x, stride) if stride == 2 else x
        x = conv(w, f"{at}.conv_2d_2", swish(norm(w, f"{at}.batchnorm_1", out))) + side
    return head(w, "logits", swish(norm(w, "batchnorm", x)))


# ---- CIFAR ResNets of 6n + 2 layers -------------------------------------------------------------------------
def cifar_shapes(depth: int) -> Callable[[int], Shapes]:
    def shapes(classes: int) -> Shapes:
        out = _conv("conv1", 16, 3) | _norm("bn1", 16)
        for s, b, inputs, outputs, stride in _blocks((16, 32, 64), (depth - 2) // 6, 16):
            at = f"layer{s + 1}.{b}"
            out |= _conv(f"{at}.conv1", outputs, inputs) | _norm(f"{at}.bn1", outputs)
            out |= _conv(f"{at}.conv2", outputs, outputs) | _norm(f"{at}.bn2", outputs)
            if stride == 2:
                out |= _conv(f"{at}.downsample.0", outputs, inputs, 1) | _norm(f"{at}.downsample.1", outputs)
        return out | _head("fc", classes, 64)

    return shapes


def cifar(depth: int) -> Callable[[Weights, Tensor], Tensor]:
    def forward(w: Weights, x: Tensor) -> Tensor:
        x = F.relu(norm(w, "bn1", conv(w, "conv1", x)))
        for s, b, _, _, stride in _blocks((16, 32, 64), (depth - 2) // 6, 16):
            at = f"layer{s + 1}.{b}"
            out = F.relu(norm(w, f"{at}.bn1", conv(w, f"{at}.conv1", x, stride)))
            out = norm(w, f"{at}.bn2", conv(w, f"{at}.conv2", out))
            side = norm(w, f"{at}.downsample.1", conv(w, f"{at}.downsample.0", x, stride)) if stride == 2 else x
            x = F.relu(out + side)
        return head(w, "fc", x)

    return forward


# ---- Wide ResNets: TRADES and DeepMind ----------------------------------------------------------------------
def trades_shapes(depth: int, width: int, dead: bool) -> Callable[[int], Shapes]:
    widths, count = (16 * width, 32 * width, 64 * width), (depth - 4) // 6

    def shapes(classes: int) -> Shapes:
        out = _conv("conv1", 16, 3)
        for s, b, inputs, outputs, _ in _blocks(widths, count, 16):
            for group in (f"block{s + 1}", *(["sub_block1"] if dead and s == 0 else [])):
                at = f"{group}.layer.{b}"
                out |= _norm(f"{at}.bn1", inputs) | _conv(f"{at}.conv1", outputs, inputs)
                out |= _norm(f"{at}.bn2", outputs) | _conv(f"{at}.conv2", outputs, outputs)
                out |= _conv(f"{at}.convShortcut", outputs, inputs, 1) if inputs != outputs else {}
        return out | _norm("bn1", widths[-1]) | _head("fc", classes, widths[-1])

    return shapes


def trades(depth: int, width: int) -> Callable[[Weights, Tensor], Tensor]:
    def forward(w: Weights, x: Tensor) -> Tensor:
        x = conv(w, "conv1", x)
        for s, b, inputs, outputs, stride in _blocks((16 * width, 32 * width, 64 * width), (depth - 4) // 6, 16):
            at = f"block{s + 1}.layer.{b}"
            a = F.relu(norm(w, f"{at}.bn1", x))
            side = conv(w, f"{at}.convShortcut", a, stride) if inputs != outputs else x
            x = conv(w, f"{at}.conv2", F.relu(norm(w, f"{at}.bn2", conv(w, f"{at}.conv1", a, stride)))) + side
        return head(w, "fc", F.relu(norm(w, "bn1", x)))

    return forward


def deepmind_shapes(depth: int, width: int) -> Callable[[int], Shapes]:
    def shapes(classes: int) -> Shapes:
        out = _conv("init_conv", 16, 3)
        for s, b, inputs, outputs, _ in _blocks((16 * width, 32 * width, 64 * width), (depth - 4) // 6, 16):
            at = f"layer.{s}.block.{b}"
            out |= _norm(f"{at}.batchnorm_0", inputs) | _conv(f"{at}.conv_0", outputs, inputs)
            out |= _norm(f"{at}.batchnorm_1", outputs) | _conv(f"{at}.conv_1", outputs, outputs)
            out |= _conv(f"{at}.shortcut", outputs, inputs, 1) if inputs != outputs else {}
        return out | _norm("batchnorm", 64 * width) | _head("logits", classes, 64 * width)

    return shapes


def deepmind(depth: int, width: int) -> Callable[[Weights, Tensor], Tensor]:
    def forward(w: Weights, x: Tensor) -> Tensor:
        x = conv(w, "init_conv", x)
        for s, b, inputs, outputs, stride in _blocks((16 * width, 32 * width, 64 * width), (depth - 4) // 6, 16):
            at = f"layer.{s}.block.{b}"
            a = swish(norm(w, f"{at}.batchnorm_0", x))
            side = conv(w, f"{at}.shortcut", a, stride) if inputs != outputs else x
            out = swish(norm(w, f"{at}.batchnorm_1", same(w, f"{at}.conv_0", a, stride)))
            x = conv(w, f"{at}.conv_1", out) + side
        return head(w, "logits", swish(norm(w, "batchnorm", x)))

    return forward


# ---- MobileNet-V2 of the ARD code bases ---------------------------------------------------------------------
def _inverted() -> Iterator[tuple[int, int, int, int, int]]:
    """(index, inputs, hidden, outputs, stride) of the 17 blocks."""
    inputs, index = 32, 0
    settings = [
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for expansion, outputs, count, stride in settings:
        for block in range(count):
            yield index, inputs, expansion * inputs, outputs, stride if block == 0 else 1
            inputs, index = outputs, index + 1


def mobilenet_shapes(classes: int) -> Shapes:
    out = _conv("conv1", 32, 3) | _norm("bn1", 32)
    for i, inputs, hidden, outputs, stride in _inverted():
        at = f"layers.{i}"
        out |= _conv(f"{at}.conv1", hidden, inputs, 1) | _norm(f"{at}.bn1", hidden)
        out |= _conv(f"{at}.conv2", hidden, 1) | _norm(f"{at}.bn2", hidden)
        out |= _conv(f"{at}.conv3", outputs, hidden, 1) | _norm(f"{at}.bn3", outputs)
        if stride == 1 and inputs != outputs:
            out |= _conv(f"{at}.shortcut.0", outputs, inputs, 1) | _norm(f"{at}.shortcut.1", outputs)
    return out | _conv("conv2", 1280, 320, 1) | _norm("bn2", 1280) | _head("linear", classes, 1280)


def mobilenet(w: Weights, x: Tensor) -> Tensor:
    x = F.relu(norm(w, "bn1", conv(w, "conv1", x)))
    for i, inputs, hidden, outputs, stride in _inverted():
        at = f"layers.{i}"
        out = F.relu(norm(w, f"{at}.bn1", conv(w, f"{at}.conv1", x)))
        out = F.relu(norm(w, f"{at}.bn2", conv(w, f"{at}.conv2", out, stride, groups=hidden)))
        out = norm(w, f"{at}.bn3", conv(w, f"{at}.conv3", out))
        if stride == 1:
            projects = inputs != outputs
            out = out + (norm(w, f"{at}.shortcut.1", conv(w, f"{at}.shortcut.0", x)) if projects else x)
        x = out
    return head(w, "linear", F.relu(norm(w, "bn2", conv(w, "conv2", x))))


FAMILIES = {
    "rn-18": Family(rn18_shapes, rn18),
    "preact-rn-18": Family(preact_shapes(True), preact),
    "preact-rn-18 bare": Family(preact_shapes(False), preact),
    "preact-rn-18-swish": Family(deepmind_preact_shapes, deepmind_preact),
    "resnet-14": Family(cifar_shapes(14), cifar(14)),
    "wrn-16-2": Family(trades_shapes(16, 2, False), trades(16, 2)),
    "wrn-10-2 dead": Family(trades_shapes(10, 2, True), trades(10, 2)),
    "wrn-16-2-swish": Family(deepmind_shapes(16, 2), deepmind(16, 2)),
    "mn-v2": Family(mobilenet_shapes, mobilenet),
}
