"""MART against its formula in float64 numpy, and what is known of it in advance."""

from typing import Any

import numpy as np
import pytest
import torch
from robustdistill_mart import boosted_ce, mart
from torch import Tensor

from robustdistill import Logits
from robustdistill.logits import Networks
from robustdistill.losses import ce
from robustdistill.testing import check_method, check_objective

Array = Any


# ---- the formulas, literally ----------------------------------------------------------------------------
def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def boosted(z: Array, y: Array, guard: float = 0.0) -> Array:
    p = softmax(z)
    wrong = np.array([np.delete(row, label).max() for row, label in zip(p, y, strict=True)])
    return -np.log(p[np.arange(len(y)), y]) - np.log(1 - wrong + guard)


def expected(s: Array, s_adv: Array, y: Array, lam: float, guard: float = 0.0) -> Array:
    p, q = softmax(s_adv), softmax(s)
    consistency = (q * np.log(q / p)).sum(axis=1)
    return boosted(s_adv, y, guard) + lam * (1 - q[np.arange(len(y)), y]) * consistency


def published(s: Array, s_adv: Array, y: Array, lam: float) -> Array:
    """As the published code rounds: log(1.0001 - p + 1e-12) and 1.0000001 - p_y."""
    p, q = softmax(s_adv), softmax(s)
    wrong = np.array([np.delete(row, label).max() for row, label in zip(p, y, strict=True)])
    own = np.arange(len(y)), y
    bce = -np.log(p[own]) - np.log(1.0001 - wrong + 1e-12)
    return bce + lam * (1.0000001 - q[own]) * (q * np.log(q / p)).sum(axis=1)


# ---- a batch --------------------------------------------------------------------------------------------
def tables(classes: int = 5, batch: int = 6, size: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """S(x), S(x') and labels."""
    g = torch.Generator().manual_seed(classes)
    s, s_adv = size * torch.randn(2, batch, classes, generator=g, dtype=torch.float64)
    return s, s_adv, torch.randint(classes, (batch,), generator=g)


def batch(s: Tensor, s_adv: Tensor, y: Tensor, log: list[str] | None = None) -> Logits:
    """x is 0 and x' is 1; the student looks its answer up. There is no teacher."""

    def student(v: Tensor) -> Tensor:
        there = bool(v.max() > 0)
        if log is not None:
            log.append("x'" if there else "x")
        return s_adv if there else s

    x = torch.zeros(len(y), 1)
    return Logits(x, y, Networks(student)).at(torch.ones_like(x))


@pytest.mark.parametrize("guard", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("lam", [0.0, 5.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_it_is_its_formula(classes: int, lam: float, guard: float) -> None:
    s, s_adv, y = tables(classes)
    wanted = expected(s.numpy(), s_adv.numpy(), y.numpy(), lam, guard)
    np.testing.assert_allclose(mart(batch(s, s_adv, y), lam=lam, guard=guard).numpy(), wanted, rtol=1e-10)


def test_the_official_guard_is_what_the_published_code_computes() -> None:
    s, s_adv, y = tables(10)
    wanted = published(s.numpy(), s_adv.numpy(), y.numpy(), 5.0)
    np.testing.assert_allclose(mart(batch(s, s_adv, y), guard=1e-4).numpy(), wanted, rtol=1e-6)


def test_a_right_and_certain_answer_costs_nothing() -> None:
    sure, y = torch.tensor([[2000.0, 0, 0]]), torch.tensor([0])
    assert float(boosted_ce(sure, y)) == 0
    assert float(mart(batch(sure, sure, y))) == 0


def test_a_wrong_and_certain_answer_costs_a_finite_loss_that_still_has_a_gradient() -> None:
    wrong, y = torch.tensor([[0.0, 50.0, 0.0]], requires_grad=True), torch.tensor([0])
    loss = boosted_ce(wrong, y)
    assert float(loss.detach()) == pytest.approx(50 + 50 - np.log(2))  # the literal 1 - p is 0 in float32
    (gradient,) = torch.autograd.grad(loss.sum(), wrong)
    assert float(gradient[0, 1]) == pytest.approx(2)


def test_with_two_classes_the_boost_is_the_cross_entropy_once_more() -> None:
    s, _, y = tables(2)
    torch.testing.assert_close(boosted_ce(s, y), 2 * ce(s, y))


def test_x_runs_before_x_adv_and_each_once() -> None:
    log: list[str] = []
    mart(batch(*tables(), log))
    assert log == ["x", "x'"]


def test_the_gradient_flows_everywhere() -> None:
    s, s_adv, y = tables(4, 3, 1.0)
    pair = s.clone().requires_grad_(), s_adv.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mart(batch(a, b, y)), pair)


def test_half_precision_logits_give_finite_losses() -> None:
    s, s_adv, y = tables(10, size=30.0)
    loss = mart(batch(s.bfloat16(), s_adv.bfloat16(), y))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()


# ---- the contract --------------------------------------------------------------------------------------
@pytest.mark.parametrize("guard", [0.0, 1e-4])
def test_it_keeps_the_contract_of_objectives(guard: float) -> None:
    check_objective(mart, guard=guard)


def test_the_installed_method_trains() -> None:
    check_method("mart")
