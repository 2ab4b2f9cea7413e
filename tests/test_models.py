"""The architectures: sizes and key names that published weights rely on, and where they must run."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustdistill.builtin.models import digits_net, register_models, resnet, wide_resnet
from robustdistill.errors import UserError
from robustdistill.registry import Registry
from robustdistill.types import Model

BUILDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "digits-net": (digits_net, {"width": 4}),
    "rn-18": (resnet, {}),
    "wrn-16-2": (wide_resnet, {"depth": 16, "width": 2}),
    "wrn-10-1-dead": (wide_resnet, {"depth": 10, "width": 1, "dead_block": True}),
}
ALL = pytest.mark.parametrize("module, params", BUILDS.values(), ids=BUILDS.keys())


def meta(build: Any, num_classes: int = 10, in_channels: int = 3, **params: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = build(num_classes=num_classes, in_channels=in_channels, **params)
    return model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_hook_registers_three_names() -> None:
    models = register_models()
    assert list(models) == ["digits-net", "rn-18", "wrn-{depth}-{width}"]
    assert all(isinstance(m, Model) and m.recognise and m.summary for m in models.values())


@pytest.mark.parametrize(
    "build, params, count, tensors",
    [
        (resnet.build, {}, 11_173_962, 122),
        (wide_resnet.build, {"depth": 34, "width": 10}, 46_160_474, 191),
        (wide_resnet.build, {"depth": 34, "width": 10, "dead_block": True}, 48_262_586, 252),
        (digits_net.build, {"width": 16, "in_channels": 1}, 12_186, 32),
        (digits_net.build, {"width": 48, "in_channels": 1}, 105_658, 32),
    ],
)
def test_sizes(build: Any, params: dict[str, Any], count: int, tensors: int) -> None:
    model = meta(build, **params)
    assert parameters(model) == count
    assert len(model.state_dict()) == tensors


@pytest.mark.parametrize("depth, width, millions", [(34, 20, 184.5), (70, 16, 266.8)])
def test_larger_networks_have_the_published_size(depth: int, width: int, millions: float) -> None:
    assert parameters(meta(wide_resnet.build, depth=depth, width=width)) / 1e6 == pytest.approx(millions, abs=0.05)


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
def test_impossible_depth(depth: int) -> None:
    with pytest.raises(UserError, match=rf"6n \+ 4 layers .*not {depth}$"):
        wide_resnet.build(num_classes=10, in_channels=3, depth=depth, width=1)


@pytest.mark.parametrize(
    "module, params",
    [
        (digits_net, {"width": 5}),
        (resnet, {}),
        (wide_resnet, {"depth": 10, "width": 1, "dead_block": False}),
        (wide_resnet, {"depth": 28, "width": 10, "dead_block": False}),
        (wide_resnet, {"depth": 34, "width": 10, "dead_block": True}),
    ],
)
@pytest.mark.parametrize("classes, channels", [(10, 3), (100, 1)])
def test_recognise_gives_the_parameters_back(module: Any, params: dict[str, Any], classes: int, channels: int) -> None:
    weights = meta(module.build, classes, channels, **params).state_dict()
    assert module.recognise(weights) == params
    for other in {digits_net, resnet, wide_resnet} - {module}:
        assert other.recognise(weights) is None


@ALL
def test_recognise_is_exact_but_for_step_counters(module: Any, params: dict[str, Any]) -> None:
    weights = meta(module.build, **params).state_dict()
    without = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert len(without) < len(weights)
    assert module.recognise(without) is not None
    for key in [*without][::9]:
        assert module.recognise({k: v for k, v in without.items() if k != key}) is None, key
    assert module.recognise({**without, "extra.weight": torch.zeros(1)}) is None
    some = next(k for k in without if k.endswith(("bn1.bias", "bn.bias")))
    assert module.recognise({**without, some: torch.zeros(3)}) is None


@pytest.mark.parametrize("module", [digits_net, resnet, wide_resnet])
def test_recognise_survives_odd_shapes(module: Any) -> None:
    names = ("stage1.conv.weight", "conv1.weight", "block1.layer.0.conv1.weight", "linear.weight", "fc.weight")
    for shape in [(0, 1), (3,), (16, 1), (16, 1, 3, 3)]:
        assert module.recognise({name: torch.zeros(shape) for name in names}) is None


def test_the_registry_reads_their_parameters() -> None:
    from robustdistill.plugins import Plugin

    registry = Registry([Plugin("models", "robustdistill", "0", {"register_models": register_models()})])
    assert registry.params("model", "digits-net", {}, "student") == {"width": 16}
    assert registry.params("model", "wrn-16-2", {}, "student") == {"depth": 16, "width": 2, "dead_block": False}
    with pytest.raises(UserError, match="width"):
        registry.params("model", "digits-net", {"width": 0}, "student")
