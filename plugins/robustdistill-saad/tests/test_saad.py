"""SAAD against its formulas in float64 numpy, its teacher's slope by finite differences, and known facts."""

from typing import Any

import numpy as np
import pytest
import torch
from robustdistill_saad import entropy, input_gradient, kl_teacher_linear, natural_target, saad
from torch import Tensor

from robustdistill import Logits
from robustdistill.logits import Clock, Networks
from robustdistill.losses import kl
from robustdistill.testing import check_method, check_objective

Array = Any
CLASSES, PIXELS = 5, 8


# ---- the formulas, literally ----------------------------------------------------------------------------
def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def divergence(input: Array, target: Array) -> Array:
    p, q = softmax(input), softmax(target)
    return (q * np.log(q / p)).sum(axis=1)


def renyi(z: Array, order: float) -> Array:
    p = softmax(z)
    if order == 1:
        return -(p * np.log(p)).sum(axis=1)
    return np.log((p**order).sum(axis=1)) / (1 - order)


def network(v: Array, weights: Array) -> Array:
    return 3 * np.sin(v @ weights)


def expected_inner(x: Array, x_adv: Array, a: Array, b: Array, *, y: Array, lam: float) -> Array:
    """The slope of T_y(v) = 3 sin(v b)_y at x is 3 cos(x b)_y b_y, row by row."""
    target = network(x, b)
    for i, label in enumerate(y):
        slope = 3 * np.cos(x[i] @ b[:, label]) * b[:, label]
        target[i, label] += lam * slope @ (x_adv[i] - x[i])
    return divergence(network(x_adv, a), target)


def expected_outer(
    x: Array, x_adv: Array, a: Array, b: Array, *, ramp: float, alpha: float, beta: float, scale: float, order: float
) -> Array:
    d = x_adv - x
    h = renyi(network(x_adv, b), order)
    w = np.maximum(0, scale * (h - h.min()))
    igdm = divergence(network(x + d, a) - network(x - d, a), network(x + d, b) - network(x - d, b))
    easy = 1 - (w - w.min()) / (w.max() - w.min())
    hard = w * (divergence(network(x_adv, a), network(x_adv, b)) + alpha * ramp * igdm)
    return hard + beta * easy * divergence(network(x, a), network(x, b))


# ---- a batch --------------------------------------------------------------------------------------------
def weights() -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, PIXELS, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a, b


def batch(
    epoch: int = 4, teacher: Any = None, dtype: torch.dtype = torch.float64, log: list[str] | None = None
) -> Logits:
    """Six images of 8 pixels, 16 epochs; `log` notes each forward."""
    g, (a, b) = torch.Generator().manual_seed(1), weights()
    x, noise = torch.rand(2, 6, PIXELS, generator=g, dtype=torch.float64)

    def noted(name: str, forward: Any) -> Any:
        def call(v: Tensor) -> Tensor:
            if log is not None:
                log.append(name)
            out: Tensor = forward(v).to(dtype)
            return out

        return call

    student = noted("S", lambda v: 3 * torch.sin(v @ a))
    taught = noted("T", teacher or (lambda v: 3 * torch.sin(v @ b)))
    z = Logits(x, torch.tensor([0, 1, 2, 3, 4, 0]), Networks(student, {"robust": taught}), clock=Clock.at(epoch, 16))
    return z.at(x + 0.1 * (noise - 0.5))


def arrays(z: Logits, a: Tensor, b: Tensor) -> Any:
    return [v.numpy() for v in (z.x, z.x_adv, a, b)]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_inner_objective_is_its_formula(lam: float) -> None:
    z, (a, b) = batch(), weights()
    expected = expected_inner(*arrays(z, a, b), y=z.y.numpy(), lam=lam)
    np.testing.assert_allclose(kl_teacher_linear(z, lam=lam).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("epoch", [0, 12])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"alpha": 0.0},
        {"alpha": 10.0, "beta": 0.5},
        {"beta": 2.0, "scale": 1.0, "order": 2.0},
        {"order": 0.5, "alpha": 0.0, "beta": 1.0},
    ],
    ids=str,
)
def test_the_outer_objective_is_its_formula(params: dict[str, float], epoch: int) -> None:
    z, (a, b) = batch(epoch), weights()
    full = {"alpha": 1.0, "beta": 0.0, "scale": 5.0, "order": 1.0} | params
    expected = expected_outer(*arrays(z, a, b), ramp=epoch / 16, **full)
    np.testing.assert_allclose(saad(z, **params).numpy(), expected, rtol=1e-10, atol=1e-13)


def test_the_slope_is_the_teachers_by_finite_differences() -> None:
    z, h = batch(), 1e-6
    slope = input_gradient(z)
    for pixel in range(PIXELS):
        move = torch.zeros_like(z.x).index_fill_(1, torch.tensor(pixel), h)
        difference = (z.teacher(z.x + move) - z.teacher(z.x - move)).gather(1, z.y[:, None])[:, 0] / (2 * h)
        torch.testing.assert_close(slope[:, pixel], difference, rtol=1e-7, atol=1e-8)


def test_the_attacks_gradient_is_that_of_the_whole_expression() -> None:
    z = batch()
    x_adv = z.x_adv.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: kl_teacher_linear(z.at(v)), (x_adv,))


def test_of_a_teacher_that_is_linear_in_its_true_class_nothing_is_lost() -> None:
    _, b = weights()
    y = torch.tensor([0, 1, 2, 3, 4, 0])

    def linear(v: Tensor) -> Tensor:
        own = torch.arange(CLASSES) == y[:, None]
        return torch.where(own, v @ b, torch.arange(5.0, dtype=torch.float64))

    z = batch(teacher=linear)
    torch.testing.assert_close(kl_teacher_linear(z), kl(z.s_adv, z.t_adv), rtol=1e-12, atol=1e-14)


def test_of_any_teacher_with_the_other_logits_fixed_it_is_right_to_first_order() -> None:
    _, b = weights()
    y = torch.tensor([0, 1, 2, 3, 4, 0])

    def curved(v: Tensor) -> Tensor:
        own = torch.arange(CLASSES) == y[:, None]
        return torch.where(own, torch.sin(v @ b), torch.arange(5.0, dtype=torch.float64))

    z = batch(teacher=curved)

    def error(r: float) -> float:
        at = z.at(z.x + r * (z.x_adv - z.x))
        return float((kl_teacher_linear(at) - kl(at.s_adv, at.t_adv)).abs().max())

    assert error(1.0) / error(0.5) == pytest.approx(4, rel=0.3)


def test_the_teacher_runs_once_for_the_whole_attack() -> None:
    log: list[str] = []
    z = batch(log=log)
    for _ in range(10):
        kl_teacher_linear(z.at(z.x_adv.clone()))
    saad(z.update(z.x_adv), beta=1.0)
    assert log.count("S") == 10 + 3
    assert log.count("T") == 1 + 2


def test_entropies() -> None:
    even, sure = torch.zeros(1, CLASSES), torch.tensor([[1000.0, 0, 0, 0, 0]])
    for order in (0.5, 1.0, 2.0):
        assert float(entropy(even, order)) == pytest.approx(np.log(CLASSES))
        assert float(entropy(sure, order)) == 0
    z = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(entropy(z, 1 + 1e-7), entropy(z, 1), rtol=1e-6, atol=1e-6)


def test_the_most_certain_example_weighs_nothing_and_equal_ones_all_do() -> None:
    z = batch()
    assert int((saad(z) == 0).sum()) == 1
    level = batch(teacher=lambda v: torch.zeros(6, CLASSES, dtype=torch.float64) + 0 * v.sum())
    assert torch.equal(saad(level), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(saad(level, beta=1.0), kl(level.s, natural_target(level)))


def test_weights_are_constants_of_the_students_gradient() -> None:
    a, b = weights()
    z = batch()
    h = entropy(z.t_adv, 1.0)
    a = a.clone().requires_grad_()
    networks = Networks(lambda v: 3 * torch.sin(v @ a), {"robust": lambda v: 3 * torch.sin(v @ b)})
    at = Logits(z.x, z.y, networks).at(z.x_adv)
    (ours,) = torch.autograd.grad(saad(at, alpha=0.0).sum(), a, retain_graph=True)
    (plain,) = torch.autograd.grad((5 * (h - h.min()).detach() * kl(at.s_adv, at.t_adv)).sum(), a)
    torch.testing.assert_close(ours, plain)


def test_half_precision_logits_give_finite_losses() -> None:
    z = batch(dtype=torch.bfloat16)
    for loss in (kl_teacher_linear(z), saad(z, beta=1.0)):
        assert torch.isfinite(loss).all()


# ---- the contract --------------------------------------------------------------------------------------
@pytest.mark.parametrize("params", [{}, {"beta": 1.0, "order": 2.0}], ids=str)
def test_the_objectives_keep_their_contract(params: dict[str, Any]) -> None:
    check_objective(kl_teacher_linear, "inner")
    check_objective(saad, **params)


def test_the_installed_method_trains() -> None:
    check_method("saad")
