"""Attacks: known answers on a linear model, properties of every registered attack, nothing left behind."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdistill.builtin.attacks import cross_entropy, cw_margin, pgd, register_attacks
from robustdistill.builtin.autoattack import autoattack
from robustdistill.errors import UserError
from robustdistill.logits import Logits, Networks
from robustdistill.losses import ce
from robustdistill.modes import attacked
from robustdistill.quantities import absolute_step

SHAPE, CLASSES = (6, 1, 4, 4), 5


class Linear(nn.Module):
    """Flat linear logits: the optimum of any attack on a two-class margin is known in closed form."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.fc = nn.Linear(16, classes).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class WithBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    return torch.rand(SHAPE, generator=g, dtype=dtype), torch.randint(CLASSES, (SHAPE[0],), generator=g)


def make(network: nn.Module, dtype: torch.dtype = torch.float64) -> Logits:
    x, y = batch(dtype)
    return Logits(x, y, Networks(student=network))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_pgd_on_a_linear_two_class_model_ends_at_the_closed_form() -> None:
    network = Linear(2)
    x, y = batch()
    z = Logits(x, y % 2, Networks(student=network))
    w = network.fc.weight[1] - network.fc.weight[0]
    direction = (torch.where(y % 2 == 0, 1.0, -1.0)[:, None] * w.sign()).reshape(SHAPE)
    best = (x + 0.1 * direction).clamp((x - 0.1).clamp(0, 1), (x + 0.1).clamp(0, 1))
    for start in ("none", "uniform", "gaussian"):
        x_adv = pgd(z, cross_entropy, eps=0.1, step="eps/4", steps=9, start=start, generator=seeded())
        assert torch.allclose(x_adv, best, atol=1e-12), start


def test_fgsm_equals_pgd_of_one_step_and_the_formula() -> None:
    z = make(Linear())
    x = z.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ce(Linear.forward(z._networks.student, x), z.y).sum(), x)  # type: ignore[arg-type]
    expected = (z.x + 0.05 * grad.sign()).clamp(0, 1)
    fgsm = register_attacks()["fgsm"]
    assert torch.equal(fgsm.run(z, fgsm.objective, eps=0.05, generator=None, **fgsm.params), expected)
    assert torch.equal(pgd(z, cross_entropy, eps=0.05, step="eps", steps=1, start="none"), expected)


def test_an_attack_raises_its_objective() -> None:
    z = make(Linear())
    for objective in (cross_entropy, cw_margin):
        x_adv = pgd(z, objective, eps=0.1, start="uniform", generator=seeded())
        assert bool((objective(z.at(x_adv)) > objective(z.at(z.x))).all())


@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(1e-4, 0.9),
    steps=st.integers(0, 4),
    start=st.sampled_from(["none", "uniform", "gaussian"]),
    size=st.floats(0, 2),
    step=st.sampled_from(["eps", "eps/4", "3*eps", 0.01, 5.0]),
)
def test_every_iterate_lies_in_ball_and_box(eps: float, steps: int, start: str, size: float, step: float | str) -> None:
    z = make(Linear())
    seen: list[Tensor] = []

    def spy(z: Logits) -> Tensor:
        seen.append(z.x_adv.detach().clone())
        return cross_entropy(z)

    out = pgd(z, spy, eps=eps, step=step, steps=steps, start=start, start_size=size, generator=seeded())
    assert len(seen) == steps
    for x_adv in [*seen, out]:
        assert float((x_adv - z.x).abs().max()) <= eps + 1e-12
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("name", list(register_attacks()))
def test_attacks_leave_everything_as_they_found_it(name: str) -> None:
    attack, network = register_attacks()[name], WithBatchNorm().train()
    z = make(network, torch.float32)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    rng = torch.get_rng_state()
    with attacked(network):
        x_adv = attack.run(z, attack.objective, eps=0.1, generator=seeded(), **attack.params)
    assert not x_adv.requires_grad
    assert x_adv.dtype == z.x.dtype
    assert torch.equal(rng, torch.get_rng_state())
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_randomness_comes_from_the_generator_alone() -> None:
    z = make(Linear())

    def run(seed: int) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        return pgd(z, cross_entropy, eps=0.1, steps=0, start="uniform", generator=g)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_presets_are_those_of_the_ard_papers_at_eight_255ths() -> None:
    attacks, eps = register_attacks(), 8 / 255
    assert absolute_step(attacks["pgd-sat"].params["step"], eps) == pytest.approx(2 / 255)
    assert absolute_step(attacks["pgd-trades"].params["step"], eps) == pytest.approx(0.003)
    assert absolute_step(attacks["fgsm"].params["step"], eps) == pytest.approx(eps)
    assert attacks["pgd"] is attacks["pgd-sat"]
    assert [attacks[n].params["steps"] for n in ("pgd-sat", "pgd-trades", "cw")] == [20, 20, 20]
    assert attacks["pgd-trades"].objective is cross_entropy


@pytest.mark.parametrize(
    ("text", "value"),
    [("eps", 0.2), ("eps/4", 0.05), ("0.5*eps", 0.1), ("2/255", 2 / 255), (0.01, 0.01), ("0.01", 0.01)],
)
def test_steps_are_absolute_or_relative(text: str | float, value: float) -> None:
    assert absolute_step(text, 0.2) == pytest.approx(value)


@pytest.mark.parametrize("text", ["epsilon", "eps/0", "a/b", "eps*2", ""])
def test_a_step_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no step size"):
        absolute_step(text, 0.2)


def test_train_mode_attacks_move_running_statistics_and_frozen_ones_do_not() -> None:
    for bn, moves in (("eval", False), ("train", True), ("train_frozen_stats", False)):
        network = WithBatchNorm()
        z, before = make(network, torch.float32), network.body[1].running_mean.clone()
        with attacked(network, bn):
            pgd(z, cross_entropy, eps=0.1, steps=2, generator=seeded())
        assert torch.equal(before, network.body[1].running_mean) is not moves, bn
        assert int(network.body[1].num_batches_tracked) == (2 if moves else 0)


@pytest.mark.parametrize("engine", ["own", "reference"])
def test_autoattack_breaks_a_linear_model_and_leaves_the_world_alone(engine: Literal["own", "reference"]) -> None:
    import sys

    network = Linear().float()
    z, rng, calls = make(network, torch.float32), torch.get_rng_state(), []

    def tracer(*args: object) -> None:
        calls.append(args)

    previous = sys.gettrace()
    sys.settrace(tracer)
    try:
        with attacked(network):
            x_adv = autoattack(z, eps=0.9, batch_size=4, engine=engine)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(previous)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(p.grad is None for p in network.parameters())
    assert not bool((network(x_adv).argmax(1) == z.y).any())


def test_three_classes_are_refused_by_the_reference_alone() -> None:
    x, y = batch(torch.float32)
    network = Linear(3).float().requires_grad_(False)
    z = Logits(x, y % 3, Networks(student=network))
    with pytest.raises(UserError, match="at least 4 classes"):
        autoattack(z, eps=0.1, engine="reference")
    right, left = (network(v).argmax(1) == y % 3 for v in (x, autoattack(z, eps=0.9)))
    assert right.any()
    assert not left.any()


def test_math_of_the_relative_trades_step() -> None:
    assert math.isclose(0.003 / (8 / 255), 0.095625)
