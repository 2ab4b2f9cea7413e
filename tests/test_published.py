"""The baseline of the benchmarks does the same mathematics as the engine, so that only their speed is compared."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from games import Tiny, game, images, teacher
from robustdistill.engine.state import sgd
from robustdistill.engine.step import step
from robustdistill.logits import Logits, Networks
from robustdistill.losses import ce, kl
from scripts import script

EPS = 0.2
KL_SCALE = {"rslad", "mmard"}


published = script("published")


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published attack starts at x: the two random starts draw from different generators."""
    monkeypatch.setattr(published, "start", lambda method, x, eps: x.clone())


def tutor() -> nn.Module:
    """A teacher as the published scripts hold it: in eval mode, its parameters requiring gradients."""
    return teacher().double().requires_grad_(True)


def optimizer(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)


def ours(method: str, x: Tensor, y: Tensor) -> tuple[nn.Module, float]:
    """The student after one eager step of the engine, and the loss."""
    layer: dict[str, Any] = {"method": method, "eps": EPS, "attack": {"name": "pgd", "start": "none"}}
    if method in KL_SCALE:
        layer["outer"] = {"kl_scale": "element_mean"}
    student = Tiny().double()
    z = Logits(x, y, Networks(student, {"robust": teacher().double()}))
    optim = sgd(student.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4, nesterov=False)
    return student, float(step(game(layer), student, z, optim, None))


@pytest.mark.usefixtures("no_start")
@pytest.mark.parametrize("method", ["nature", "sat", "rslad", "mmard"])
def test_a_step_is_the_engines_step(method: str) -> None:
    x, y = images(16, dtype=torch.float64)
    expected, loss = ours(method, x, y)
    student = Tiny().double()
    optim = optimizer(student)
    value = published.step(method, student, tutor(), x, y, optim, eps=EPS, step_size=EPS / 4)
    assert value == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=1e-6, atol=1e-9)
    gradients = [[p.grad for p in network.parameters()] for network in (student, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)


def test_trades_outer_loss_is_its_formula() -> None:
    student = Tiny().double().eval()
    x, y = images(dtype=torch.float64)
    x_adv = images(seed=1, dtype=torch.float64)[0]
    expected = (ce(student(x), y) + 6 * kl(student(x_adv), student(x))).mean()
    torch.testing.assert_close(published.outer_loss("trades", student, None, x_adv, x, y, None), expected)


def test_trades_lowers_its_loss() -> None:
    student = Tiny()
    optim = optimizer(student)
    x, y = images(16)
    losses = [published.step("trades", student, None, x, y, optim, eps=0.05, step_size=0.0125) for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("method", published.METHODS[1:])
def test_an_attack_raises_its_loss_inside_the_ball(method: str) -> None:
    student, master, (x, y) = Tiny().double(), tutor(), images(dtype=torch.float64)
    target = master(x).detach()

    def ascend(v: Tensor) -> Tensor:
        value: Tensor = published.inner_loss(method, student, master, v, x, y, target)
        return value

    x_adv = published.attack(student, ascend, published.start(method, x, EPS), x, eps=EPS, steps=10, step_size=EPS / 4)
    assert (x_adv - x).abs().max() <= EPS + 1e-12
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    student.eval()
    assert ascend(x_adv) > ascend(x)
    assert all(p.grad is None for network in (student, master) for p in network.parameters())


def test_starts_are_those_of_the_sources() -> None:
    x = torch.full((64, 1, 8, 8), 0.1)
    near, uniform = published.start("rslad", x, EPS) - x, published.start("sat", x, EPS)
    assert near.std() == pytest.approx(0.001, rel=0.1)
    assert (uniform.min(), uniform.max()) == (0, pytest.approx(0.3, abs=0.01))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_loader_hands_out_every_image_once(channels: int) -> None:
    data = torch.randint(256, (24, channels, 8, 8), dtype=torch.uint8)
    batches = list(published.loader(data, torch.arange(24), batch_size=10, pad=0, flip=False, workers=0))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert [len(labels) for _, labels in batches] == [10, 10, 4]
    assert sorted(y.tolist()) == list(range(24))
    torch.testing.assert_close(x, data[y].float() / 255)


@pytest.mark.parametrize("method", published.METHODS)
def test_an_epoch_yields_the_loss_of_each_step(method: str) -> None:
    data, labels = torch.randint(256, (24, 1, 8, 8), dtype=torch.uint8), torch.randint(10, (24,))
    master = None if method in ("nature", "sat", "trades") else teacher()
    run = published.epoch(
        method, Tiny(), master, data, labels, eps=EPS, steps=2, batch_size=10, device="cpu", pad=1, workers=0
    )
    losses = list(run)
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
