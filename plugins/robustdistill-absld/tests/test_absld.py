"""ABSLD against its formulas in float64 numpy, and what is known of it in advance."""

from typing import Any

import numpy as np
import pytest
import torch
from robustdistill_absld import ABSLD
from torch import Tensor

from robustdistill import Logits
from robustdistill.logits import Networks
from robustdistill.losses import kl
from robustdistill.testing import check_method, check_objective

Array = Any
CLASSES = 4


# ---- the formulas, literally ----------------------------------------------------------------------------
def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def divergence(input: Array, target: Array) -> Array:
    p, q = softmax(input), softmax(target)
    return (q * np.log(q / p)).sum(axis=1)


def expected(s: Array, s_adv: Array, t: Array, y: Array, tau: Array, nu: Array, alpha: float) -> Array:
    sharp, soft = (np.array([row / temperature[c] for row, c in zip(t, y, strict=True)]) for temperature in (tau, nu))
    return alpha * divergence(s_adv, sharp) + (1 - alpha) * divergence(s, soft)


def moved(tau: Array, logits: Array, y: Array, rate: float) -> Array:
    """tau after an epoch whose examples of labels `y` had these logits."""
    losses = -np.log(softmax(logits)[np.arange(len(y)), y])
    mean = np.array([losses[y == c].mean() for c in range(CLASSES)])
    gap = mean - mean.mean()
    return np.clip(tau - rate * gap / np.abs(gap).max(), 0.5, 5)


# ---- a batch --------------------------------------------------------------------------------------------
def tables(seed: int = 0, batch: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S(x), S(x'), T(x) and labels, every class among them."""
    g = torch.Generator().manual_seed(seed)
    s, s_adv, t = 2 * torch.randn(3, batch, CLASSES, generator=g, dtype=torch.float64)
    return s, s_adv, t, torch.randint(CLASSES, (batch,), generator=g) * 0 + torch.arange(batch) % CLASSES


def batch(s: Tensor, s_adv: Tensor, t: Tensor, y: Tensor, log: list[str] | None = None) -> Logits:
    """x is 0 and x' is 1; networks look their answers up."""

    def student(v: Tensor) -> Tensor:
        there = bool(v.max() > 0)
        if log is not None:
            log.append("x'" if there else "x")
        return s_adv if there else s

    x = torch.zeros(len(y), 1)
    return Logits(x, y, Networks(student, {"robust": lambda v: t})).at(torch.ones_like(x))


def fresh(**params: Any) -> ABSLD:
    return ABSLD(num_classes=CLASSES, kl_scale="batchmean", **params).double()


@pytest.mark.parametrize("alpha", [0.0, 5 / 6, 1.0])
def test_the_loss_is_its_formula(alpha: float) -> None:
    unit, found = fresh(alpha=alpha), tables()
    tau, nu = np.array([0.5, 1, 2, 5]), np.array([3, 0.7, 1, 1.5])
    unit.tau.copy_(torch.tensor(np.stack([tau, nu])))
    s, s_adv, t, y = (v.numpy() for v in found)
    wanted = expected(s, s_adv, t, y, tau, nu, alpha)
    np.testing.assert_allclose(unit(batch(*found)).numpy(), wanted, rtol=1e-12)
    inner = divergence(s_adv, t / tau[y][:, None])
    np.testing.assert_allclose(unit.inner(batch(*found)).numpy(), inner, rtol=1e-12)


def test_temperatures_follow_their_formula_through_epochs_and_drops_of_the_rate() -> None:
    unit = fresh(rate=0.4, milestones=(1, 2))
    tau = nu = np.ones(CLASSES)
    for epoch, rate in enumerate((0.4, 0.04, 0.004, 0.004)):
        first, second = tables(2 * epoch), tables(2 * epoch + 1)
        unit(batch(*first))
        unit(batch(*second))
        unit.end_epoch()
        s, s_adv, _, y = (torch.cat(pair).numpy() for pair in zip(first, second, strict=True))
        tau, nu = moved(tau, s_adv, y, rate), moved(nu, s, y, rate)
        np.testing.assert_allclose(unit.tau.numpy(), np.stack([tau, nu]), rtol=1e-12)


def test_it_begins_as_rslad_and_stays_it_while_class_errors_are_equal() -> None:
    unit = fresh()
    y = torch.arange(CLASSES)
    level = 3 * torch.eye(CLASSES, dtype=torch.float64)
    for _ in range(3):
        z = batch(level, 0.5 * level, tables()[2][:CLASSES], y)
        torch.testing.assert_close(unit(z), 5 / 6 * kl(z.s_adv, z.t) + 1 / 6 * kl(z.s, z.t), rtol=0, atol=1e-15)
        unit.end_epoch()
    assert torch.equal(unit.tau, torch.ones(2, CLASSES, dtype=torch.float64))


def test_a_class_with_large_errors_gets_sharper_labels_down_to_the_bound() -> None:
    unit, y = fresh(), torch.arange(CLASSES)
    right = 3 * torch.eye(CLASSES, dtype=torch.float64)
    wrong = torch.where((y == 2)[:, None], -right, right)
    for _ in range(60):
        unit(batch(right, wrong, right, y))
        unit.end_epoch()
    assert unit.tau[0, 2] == 0.5
    assert unit.tau[0, [0, 1, 3]].min() > 2
    assert torch.equal(unit.tau[1], torch.ones(CLASSES, dtype=torch.float64))


def test_a_class_that_does_not_occur_keeps_its_temperature() -> None:
    unit, (s, s_adv, t, y) = fresh(), tables()
    there = y != 3
    unit(batch(s[there], s_adv[there], t[there], y[there]))
    unit.end_epoch()
    assert unit.tau[:, 3].tolist() == [1, 1]
    assert (unit.tau[:, :3] != 1).any(dim=1).all()


def test_the_two_temperatures_do_not_mix() -> None:
    """The published code edits two views of one tensor, and both targets end up divided by tau nu."""
    found = tables()
    unit, z = fresh(), batch(*found)
    unit.tau[0].fill_(2)
    before = z.t.clone()
    unit(z)
    assert torch.equal(z.t, before)
    torch.testing.assert_close(unit(z) - 5 / 6 * kl(z.s_adv, z.t / 2), 1 / 6 * kl(z.s, z.t))


def test_the_student_runs_on_x_adv_first() -> None:
    log: list[str] = []
    fresh()(batch(*tables(), log=log))
    assert log == ["x'", "x"]


def test_state_stays_where_it_is() -> None:
    unit = fresh()
    places = {name: buffer.data_ptr() for name, buffer in unit.named_buffers()}
    unit(batch(*tables()))
    unit.end_epoch()
    assert places == {name: buffer.data_ptr() for name, buffer in unit.named_buffers()}


def test_half_precision_logits_give_finite_losses() -> None:
    s, s_adv, t, y = tables()
    unit = ABSLD(num_classes=CLASSES)
    loss = unit(batch(s.bfloat16(), s_adv.bfloat16(), t.bfloat16(), y))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert torch.isfinite(unit.errors).all()


# ---- the contract --------------------------------------------------------------------------------------
def test_it_keeps_the_contract_of_objectives() -> None:
    check_objective(ABSLD, milestones=(1,))


def test_the_installed_method_trains() -> None:
    check_method("absld")
