"""IGDM against its formula in float64 numpy, and what is known of it in advance."""

from typing import Any

import numpy as np
import pytest
import torch
from robustdistill_igdm import IGDM, gradient_matching
from torch import Tensor

from robustdistill import Logits
from robustdistill.logits import Clock, Networks
from robustdistill.losses import ce
from robustdistill.testing import check_modifier

Array = Any


# ---- the formula, literally -----------------------------------------------------------------------------
def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def expected(x: Array, x_adv: Array, a: Array, b: Array) -> Array:
    """KL(S(x+d) - S(x-d), T(x+d) - T(x-d)) of the networks S(v) = 3 sin(v a), T(v) = 3 sin(v b)."""
    d = x_adv - x
    p = softmax(3 * np.sin((x + d) @ a) - 3 * np.sin((x - d) @ a))
    q = softmax(3 * np.sin((x + d) @ b) - 3 * np.sin((x - d) @ b))
    return (q * np.log(q / p)).sum(axis=1)


# ---- a batch --------------------------------------------------------------------------------------------
def weights() -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a, b


def batch(epoch: int = 5, student: Any = None, teacher: Any = None, dtype: torch.dtype = torch.float64) -> Logits:
    """Six images of 8 pixels near 0, so that x - d leaves [0, 1]; 5 classes, 10 epochs."""
    g, (a, b) = torch.Generator().manual_seed(1), weights()
    x, noise = torch.rand(2, 6, 8, generator=g, dtype=torch.float64)
    student = student or (lambda v: (3 * torch.sin(v @ a)).to(dtype))
    teacher = teacher or (lambda v: (3 * torch.sin(v @ b)).to(dtype))
    z = Logits(
        0.05 * x, torch.tensor([0, 1, 2, 3, 4, 0]), Networks(student, {"robust": teacher}), clock=Clock.at(epoch, 10)
    )
    return z.at((z.x + 0.1 * noise).clamp(0, 1))


def host(z: Logits) -> Tensor:
    """CE(S(x'), y): a host that reads no teacher."""
    return z.term("ce", ce(z.s_adv, z.y))


def test_the_term_is_its_formula() -> None:
    z, (a, b) = batch(), weights()
    np.testing.assert_allclose(gradient_matching(z), expected(*(v.numpy() for v in (z.x, z.x_adv, a, b))), rtol=1e-10)
    assert float((2 * z.x - z.x_adv).min()) < 0


@pytest.mark.parametrize(("epoch", "alpha"), [(0, 1.0), (5, 1.0), (9, 10.0)])
def test_it_is_ramped_up_over_the_epochs_and_added_to_its_host(epoch: int, alpha: float) -> None:
    z = batch(epoch)
    inner, outer = IGDM(alpha=alpha).wrap(host, host)
    assert inner is host
    torch.testing.assert_close(outer(z), host(z) + alpha * epoch / 10 * gradient_matching(z))
    assert list(z.terms) == ["ce", "igdm"]


def test_it_vanishes_where_the_student_is_the_teacher_up_to_a_constant() -> None:
    a, _ = weights()
    z = batch(student=lambda v: torch.sin(v @ a) + 7, teacher=lambda v: torch.sin(v @ a) + torch.arange(5.0))
    assert float(gradient_matching(z).abs().max()) < 1e-14


def test_to_first_order_it_compares_the_gradients_along_the_attack() -> None:
    """T(x + d) - T(x - d) = 2 <grad T(x), d> + O(d^3): for networks with equal gradients at x the term is O(d^6)."""
    a, _ = weights()
    z = batch(student=lambda v: torch.sin(v @ a), teacher=lambda v: (v @ a) + 5)
    origin = Logits(torch.zeros_like(z.x), z.y, Networks(z.student, {"robust": z.teacher}))
    small, large = (float(gradient_matching(origin.at(r * z.x_adv)).max()) for r in (0.5, 1.0))
    assert large < 1e-3
    assert 2**5 < large / small < 2**7


def test_forwards_of_its_own_come_after_those_of_the_host() -> None:
    log: list[str] = []

    def noted(name: str) -> Any:
        def forward(v: Tensor) -> Tensor:
            log.append(name)
            return torch.sin(v @ weights()[0])

        return forward

    _, outer = IGDM().wrap(host, host)
    outer(batch(student=noted("S"), teacher=noted("T")))
    assert log == ["S", "S", "T", "T"]


def test_the_student_gets_gradients_at_both_points_and_the_teachers_side_is_a_constant() -> None:
    (a, b), z = weights(), batch()
    a, b = a.requires_grad_(), b.requires_grad_()
    z = batch(student=lambda v: torch.sin(v @ a), teacher=lambda v: torch.sin(v @ b))
    gradients = torch.autograd.grad(gradient_matching(z).sum(), (a, b), allow_unused=True)
    assert gradients[0] is not None
    assert float(gradients[0].abs().max()) > 0
    assert gradients[1] is None


def test_half_precision_logits_are_subtracted_in_full_precision() -> None:
    half = gradient_matching(batch(dtype=torch.bfloat16))
    assert half.dtype == torch.float32
    assert torch.isfinite(half).all()


# ---- the contract --------------------------------------------------------------------------------------
def test_it_keeps_the_contract_of_modifiers() -> None:
    check_modifier(IGDM, alpha=2.0)
