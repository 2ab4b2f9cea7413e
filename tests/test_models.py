"""The architectures: sizes and key names that published weights rely on, and where they must run."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdistill.builtin.models import (
    cifar_resnet,
    digits_net,
    mobilenet,
    preact_resnet,
    preact_swish,
    register_models,
    resnet,
    swish_wrn,
    wide_resnet,
)
from robustdistill.errors import UserError
from robustdistill.registry import Registry
from robustdistill.types import Model

BUILDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "digits-net": (digits_net, {"width": 4}),
    "rn-18": (resnet, {}),
    "mn-v2": (mobilenet, {}),
    "wrn-16-2": (wide_resnet, {"depth": 16, "width": 2}),
    "wrn-10-1-dead": (wide_resnet, {"depth": 10, "width": 1, "dead_block": True}),
    "wrn-16-2-swish": (swish_wrn, {"depth": 16, "width": 2}),
    "preact-rn-18": (preact_resnet, {}),
    "preact-rn-18-bare": (preact_resnet, {"final_norm": False, "projection": "raw"}),
    "preact-rn-18-swish": (preact_swish, {}),
    "resnet-8": (cifar_resnet, {"depth": 8}),
}
MODULES = [digits_net, resnet, mobilenet, wide_resnet, swish_wrn, preact_resnet, preact_swish, cifar_resnet]
ALL = pytest.mark.parametrize("module, params", BUILDS.values(), ids=BUILDS.keys())


def meta(build: Any, num_classes: int = 10, in_channels: int = 3, **params: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = build(num_classes=num_classes, in_channels=in_channels, **params)
    return model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_hook_registers_names_and_families() -> None:
    models = register_models()
    small = ["digits-net", "rn-18", "mn-v2", "preact-rn-18", "preact-rn-18-swish"]
    families = ["resnet-{depth}", "wrn-{depth}-{width}", "wrn-{depth}-{width}-swish", "timm:{network}"]
    assert list(models) == [*small, *families]
    assert all(isinstance(m, Model) and m.summary and m.layout for m in models.values())
    assert [name for name, m in models.items() if not m.recognise] == ["timm:{network}"]
    assert [name for name, m in models.items() if m.examples] == families[:-1]


@pytest.mark.parametrize(
    "build, params, count, tensors",
    [
        (resnet.build, {}, 11_173_962, 122),
        (mobilenet.build, {}, 2_296_922, 344),
        (mobilenet.build, {"num_classes": 100}, 2_412_212, 344),
        (wide_resnet.build, {"depth": 34, "width": 10}, 46_160_474, 191),
        (wide_resnet.build, {"depth": 34, "width": 10, "dead_block": True}, 48_262_586, 252),
        (wide_resnet.build, {"depth": 34, "width": 20}, 184_531_674, 191),
        (wide_resnet.build, {"depth": 70, "width": 16}, 266_796_506, 407),
        (swish_wrn.build, {"depth": 28, "width": 10}, 36_479_194, 157),
        (swish_wrn.build, {"depth": 70, "width": 16}, 266_796_506, 409),
        (swish_wrn.build, {"depth": 70, "width": 16, "num_classes": 100}, 266_888_756, 409),
        (preact_resnet.build, {}, 11_172_170, 107),
        (preact_resnet.build, {"final_norm": False}, 11_171_146, 102),
        (preact_swish.build, {}, 12_548_426, 109),
        (cifar_resnet.build, {"depth": 20}, 272_474, 128),
        (cifar_resnet.build, {"depth": 56}, 855_770, 344),
        (cifar_resnet.build, {"depth": 56, "num_classes": 100}, 861_620, 344),
        (digits_net.build, {"width": 16, "in_channels": 1}, 12_186, 32),
        (digits_net.build, {"width": 48, "in_channels": 1}, 105_658, 32),
    ],
)
def test_sizes(build: Any, params: dict[str, Any], count: int, tensors: int) -> None:
    model = meta(build, **params)
    assert parameters(model) == count
    assert len(model.state_dict()) == tensors


@pytest.mark.parametrize(
    "build, params, giga",
    [
        (resnet.build, {}, 0.555),
        (mobilenet.build, {}, 0.091),
        (wide_resnet.build, {"depth": 34, "width": 10}, 6.66),
        (wide_resnet.build, {"depth": 34, "width": 20}, 26.6),
        (wide_resnet.build, {"depth": 70, "width": 16}, 38.8),
        (swish_wrn.build, {"depth": 70, "width": 16}, 38.8),
    ],
)
def test_multiplications_of_an_image(build: Any, params: dict[str, Any], giga: float) -> None:
    """Measured on the published classes: unlike the number of parameters, it depends on every stride."""
    model = meta(build, **params).eval()
    counts = []

    def count(layer: Any, _: Any, out: Tensor) -> None:
        counts.append(out.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model(torch.rand(1, 3, 32, 32, device="meta"))
    assert sum(counts) / 1e9 == pytest.approx(giga, rel=5e-3)


def test_default_width_of_the_digits_net() -> None:
    assert parameters(meta(digits_net.build, in_channels=1)) == 12_186


def test_key_names_are_those_of_published_weights() -> None:
    rn = meta(resnet.build).state_dict()
    assert {"conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer4.1.bn2.running_var", "linear.bias"} <= set(rn)
    assert rn["layer2.0.shortcut.0.weight"].shape == (128, 64, 1, 1)
    assert rn["layer2.0.shortcut.1.weight"].shape == (128,)
    assert not any(k.startswith("layer1.0.shortcut") for k in rn)
    wrn = meta(wide_resnet.build, depth=34, width=10, dead_block=True).state_dict()
    assert {k.split(".")[0] for k in wrn} == {"conv1", "block1", "sub_block1", "block2", "block3", "bn1", "fc"}
    assert {k.split(".", 3)[3] for k in wrn if k.startswith("block2.layer.0.") and k.endswith("weight")} == {
        "bn1.weight",
        "conv1.weight",
        "bn2.weight",
        "conv2.weight",
        "convShortcut.weight",
    }
    assert wrn["block1.layer.0.convShortcut.weight"].shape == (160, 16, 1, 1)
    assert "block1.layer.4.conv2.weight" in wrn
    assert "block1.layer.5.conv2.weight" not in wrn
    assert sum(k.startswith("sub_block1.") for k in wrn) == 61


def test_key_names_of_the_mobilenet_are_those_of_the_ard_code_bases() -> None:
    mn = meta(mobilenet.build).state_dict()
    assert {k.split(".")[0] for k in mn} == {"conv1", "bn1", "layers", "conv2", "bn2", "linear"}
    assert {k.split(".")[1] for k in mn if k.startswith("layers.")} == {str(i) for i in range(17)}
    assert {k.split(".")[2] for k in mn if k.startswith("layers.1.")} == {
        *(f"{kind}{i}" for kind in ("conv", "bn") for i in (1, 2, 3)),
        "shortcut",
    }
    projected = {k.split(".")[1] for k in mn if ".shortcut." in k}
    assert projected == {"0", "1", "10", "16"}  # where the width changes at stride 1
    assert mn["layers.1.shortcut.0.weight"].shape == (24, 16, 1, 1)
    assert mn["layers.1.shortcut.1.running_mean"].shape == (24,)
    assert mn["layers.2.conv2.weight"].shape == (144, 1, 3, 3)
    assert mn["layers.16.conv3.weight"].shape == (320, 960, 1, 1)
    assert mn["linear.weight"].shape == (10, 1280)


def test_key_names_of_the_swish_networks_are_deepminds() -> None:
    wrn = meta(swish_wrn.build, depth=28, width=10).state_dict()
    assert {k.split(".")[0] for k in wrn} == {"mean", "std", "init_conv", "layer", "batchnorm", "logits"}
    assert {k.split(".", 4)[4] for k in wrn if k.startswith("layer.1.block.0.") and k.endswith("weight")} == {
        "batchnorm_0.weight",
        "conv_0.weight",
        "batchnorm_1.weight",
        "conv_1.weight",
        "shortcut.weight",
    }
    assert wrn["layer.0.block.0.shortcut.weight"].shape == (160, 16, 1, 1)
    assert wrn["layer.2.block.0.conv_0.weight"].shape == (640, 320, 3, 3)
    assert "layer.2.block.3.conv_1.weight" in wrn
    assert "layer.2.block.4.conv_1.weight" not in wrn
    assert not any(k.startswith("layer.1.block.1.shortcut") for k in wrn)
    assert wrn["mean"].shape == wrn["std"].shape == (3, 1, 1)


@ALL
@pytest.mark.parametrize("classes, channels, size", [(10, 1, 8), (3, 3, 32), (7, 3, 13)])
def test_logits_for_any_size_from_eight(
    module: Any, params: dict[str, Any], classes: int, channels: int, size: int
) -> None:
    model = meta(module.build, classes, channels, **params)
    assert model(torch.rand(2, channels, size, size, device="meta")).shape == (2, classes)


@ALL
@pytest.mark.parametrize("train", [True, False])
def test_forward_and_backward_on_meta(module: Any, params: dict[str, Any], train: bool) -> None:
    model = meta(module.build, 10, 1, **params).train(train)
    x = torch.rand(2, 1, 8, 8, device="meta", requires_grad=True)
    loss = F.cross_entropy(model(x), torch.zeros(2, dtype=torch.int64, device="meta"))
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.is_meta


@ALL
def test_float64_throughout_and_equal_to_float32(module: Any, params: dict[str, Any]) -> None:
    model = module.build(num_classes=10, in_channels=1, **params).eval()
    x = torch.rand(2, 1, 8, 8)
    single = model(x)
    double = model.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@ALL
def test_every_parameter_but_the_dead_block_learns(module: Any, params: dict[str, Any]) -> None:
    model = module.build(num_classes=10, in_channels=1, **params)
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()
    unused = {k for k, p in model.named_parameters() if p.grad is None}
    assert unused == {k for k, _ in model.named_parameters() if k.startswith("sub_block1.")}
    assert bool(unused) == bool(params.get("dead_block"))


@ALL
def test_examples_do_not_mix_in_eval_mode(module: Any, params: dict[str, Any]) -> None:
    model = module.build(num_classes=10, in_channels=1, **params).eval()
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_wide_resnet_block_by_hand() -> None:
    """The projection sees the activated input, the identity the raw one: the point of pre-activation."""
    x = torch.randn(2, 4, 6, 6)
    block = wide_resnet.Block(4, 6, 2).eval()
    assert isinstance(block.convShortcut, nn.Conv2d)
    a = F.relu(x / (1 + 1e-5) ** 0.5)
    hidden = F.relu(F.conv2d(a, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5)
    branch = F.conv2d(hidden, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), branch + F.conv2d(a, block.convShortcut.weight, stride=2))
    same = wide_resnet.Block(4, 4, 1).eval()
    nn.init.zeros_(same.conv2.weight)
    torch.testing.assert_close(same(x), x)


@pytest.mark.parametrize("side", [6, 7])
def test_swish_block_by_hand(side: int) -> None:
    """SAME padding at stride 2: before an odd side and after any, so that branch and shortcut see the same pixels."""
    x = torch.randn(2, 4, side, side)
    block = swish_wrn.Block(4, 6, 2).eval()
    assert isinstance(block.shortcut, nn.Conv2d)
    a = x / (1 + 1e-5) ** 0.5
    a = a * torch.sigmoid(a)
    before = side % 2
    padded = torch.zeros(2, 4, side + before + 1, side + before + 1)
    padded[:, :, before : before + side, before : before + side] = a
    hidden = F.conv2d(padded, block.conv_0.weight, stride=2) / (1 + 1e-5) ** 0.5
    branch = F.conv2d(hidden * torch.sigmoid(hidden), block.conv_1.weight, padding=1)
    torch.testing.assert_close(block(x), branch + F.conv2d(a, block.shortcut.weight, stride=2))
    same = swish_wrn.Block(4, 4, 1).eval()
    torch.testing.assert_close(same(x) - x, same.conv_1(F.silu(same.batchnorm_1(same.conv_0(a)))))


def logits_of_normalised(model: nn.Module, x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """What `model` gives for x when it normalises by `mean` and `std`, with its own normalisation switched off."""
    plain = copy.deepcopy(model)
    plain.get_buffer("mean").zero_()
    plain.get_buffer("std").fill_(1)
    out: Tensor = plain((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    return out


C10 = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
C100 = [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]


@pytest.mark.parametrize(
    ("classes", "options", "statistics"),
    [
        (10, {}, C10),
        (7, {}, C10),
        (100, {}, C100),
        (100, {"normalisation": "cifar10"}, C10),
        (10, {"normalisation": "cifar100"}, C100),
    ],
)
def test_swish_networks_normalise_their_input(
    classes: int, options: dict[str, Any], statistics: tuple[list[float], list[float]]
) -> None:
    model = swish_wrn.build(num_classes=classes, in_channels=3, depth=10, width=1, **options).eval()
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(x), logits_of_normalised(model, x, *statistics))


def test_images_that_are_not_rgb_are_left_as_they_are() -> None:
    buffers = dict(swish_wrn.build(num_classes=10, in_channels=2, depth=10, width=1).named_buffers())
    assert (buffers["mean"].flatten().tolist(), buffers["std"].flatten().tolist()) == ([0, 0], [1, 1])
    with pytest.raises(UserError, match="'cifar10' is for images of 3 channels, not 1; use 'auto'"):
        swish_wrn.build(num_classes=10, in_channels=1, depth=10, width=1, normalisation="cifar10")


def test_mobilenet_block_by_hand() -> None:
    x = torch.randn(2, 4, 6, 6)
    down = mobilenet.Block(4, 4, 6, 2).eval()
    unit = (1 + 1e-5) ** 0.5
    hidden = F.relu(F.conv2d(x, down.conv1.weight) / unit)
    assert hidden.shape[1] == 24
    hidden = F.relu(F.conv2d(hidden, down.conv2.weight, stride=2, padding=1, groups=24) / unit)
    torch.testing.assert_close(down(x), F.conv2d(hidden, down.conv3.weight) / unit)  # no shortcut, no ReLU
    same, wider = mobilenet.Block(4, 4, 6, 1).eval(), mobilenet.Block(4, 6, 1, 1).eval()
    nn.init.zeros_(same.conv3.weight)
    nn.init.zeros_(wider.conv3.weight)
    torch.testing.assert_close(same(x), x)
    torch.testing.assert_close(wider(x), F.conv2d(x, wider.state_dict()["shortcut.0.weight"]) / unit)


def test_resnet_block_by_hand() -> None:
    x = torch.randn(2, 4, 6, 6)
    same = resnet.Block(4, 4).eval()
    nn.init.zeros_(same.conv2.weight)
    torch.testing.assert_close(same(x), F.relu(x))
    down = resnet.Block(4, 6, stride=2).eval()
    nn.init.zeros_(down.conv2.weight)
    projection = F.conv2d(x, down.state_dict()["shortcut.0.weight"], stride=2) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(down(x), F.relu(projection))


def test_wide_resnet_is_initialised_as_trades() -> None:
    model = wide_resnet.build(num_classes=10, in_channels=3, depth=10, width=4)
    weights = model.state_dict()
    for name, fan_out in [("block2.layer.0.conv1", 9 * 128), ("block3.layer.0.convShortcut", 256)]:
        assert weights[f"{name}.weight"].std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    assert weights["bn1.weight"].eq(1).all()
    assert weights["bn1.bias"].eq(0).all()
    assert weights["fc.bias"].eq(0).all()


@pytest.mark.parametrize("depth", [4, 11, 33, -2])
@pytest.mark.parametrize("module", [wide_resnet, swish_wrn])
def test_impossible_depth(module: Any, depth: int) -> None:
    with pytest.raises(UserError, match=rf"6n \+ 4 layers .*not {depth}$"):
        module.build(num_classes=10, in_channels=3, depth=depth, width=1)


@pytest.mark.parametrize(
    "module, params",
    [
        (digits_net, {"width": 5}),
        (resnet, {}),
        (mobilenet, {}),
        (wide_resnet, {"depth": 10, "width": 1, "dead_block": False}),
        (wide_resnet, {"depth": 28, "width": 10, "dead_block": False}),
        (wide_resnet, {"depth": 34, "width": 10, "dead_block": True}),
        (swish_wrn, {"depth": 10, "width": 1}),
        (swish_wrn, {"depth": 28, "width": 10}),
        (preact_resnet, {"final_norm": True, "projection": "activated"}),
        (preact_resnet, {"final_norm": False, "projection": "raw"}),
        (preact_swish, {}),
        (cifar_resnet, {"depth": 8}),
        (cifar_resnet, {"depth": 56}),
    ],
)
@pytest.mark.parametrize("classes, channels", [(10, 3), (100, 1)])
def test_recognise_gives_the_parameters_back(module: Any, params: dict[str, Any], classes: int, channels: int) -> None:
    weights = meta(module.build, classes, channels, **params).state_dict()
    assert module.recognise(weights) == params
    for other in [m for m in MODULES if m is not module]:
        assert other.recognise(weights) is None


@ALL
def test_recognise_is_exact_but_for_step_counters_and_normalisation(module: Any, params: dict[str, Any]) -> None:
    weights = meta(module.build, **params).state_dict()
    optional = {k for k in weights if k in ("mean", "std") or k.endswith("num_batches_tracked")}
    without = {k: v for k, v in weights.items() if k not in optional}
    assert len(without) < len(weights)
    assert module.recognise(without) is not None
    for key in [*without][::9]:
        assert module.recognise({k: v for k, v in without.items() if k != key}) is None, key
    assert module.recognise({**without, "extra.weight": torch.zeros(1)}) is None
    some = next(k for k in without if k.endswith(("bn1.bias", "bn.bias", "batchnorm_0.bias")))
    assert module.recognise({**without, some: torch.zeros(3)}) is None


@pytest.mark.parametrize("module", MODULES)
def test_recognise_survives_odd_shapes(module: Any) -> None:
    stems = ("stage1.conv", "conv1", "block1.layer.0.conv1", "init_conv", "layer.0.block.0.conv_0")
    names = [f"{layer}.weight" for layer in (*stems, "linear", "fc", "logits")]
    for shape in [(0, 1), (3,), (16, 1), (16, 1, 3, 3)]:
        assert module.recognise({name: torch.zeros(shape) for name in names}) is None


def test_the_registry_reads_their_parameters() -> None:
    from robustdistill.plugins import Plugin

    registry = Registry([Plugin("models", "robustdistill", "0", {"register_models": register_models()})])
    assert registry.params("model", "digits-net", {}, "student") == {"width": 16}
    assert registry.params("model", "wrn-16-2", {}, "student") == {
        "depth": 16,
        "width": 2,
        "dead_block": False,
        "normalisation": None,
    }
    swish = {"depth": 16, "width": 2, "normalisation": "auto"}
    assert registry.params("model", "wrn-16-2-swish", {}, "student") == swish
    assert registry.entry("model", "wrn-16-2-swish").unit.build is swish_wrn.build
    assert registry.entry("model", "wrn-16-2").unit.build is wide_resnet.build
    with pytest.raises(UserError, match="width"):
        registry.params("model", "digits-net", {"width": 0}, "student")
    for name in ("wrn-16-2-relu", "wrn-16-2-swish-", "wrn-16-swish"):
        with pytest.raises(UserError, match=f"unknown model '{name}'"):
            registry.entry("model", name)
