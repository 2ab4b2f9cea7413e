"""robustdistill.losses against the oracle, against known answers, and against facts of the formulas."""

from collections.abc import Callable, Iterator
from itertools import product

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import gradcheck

import oracle
from robustdistill import losses

CLASSES = (2, 3, 10, 100)
SCALES = ("batchmean", "element_mean", "rslad", "sum")
SPACES = ("prob", "logit")
PAIRS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce": lambda a, b, y: losses.ce(a, y),
    "kl": lambda a, b, y: losses.kl(a, b),
    "kl-tau4": lambda a, b, y: losses.kl(a, b, 4.0, "element_mean"),
    "kl-rslad": lambda a, b, y: losses.kl(a, b, scale="rslad"),
    "prob": lambda a, b, y: losses.prob(a, y),
    "margin": lambda a, b, y: losses.margin(a, y),
    "angle-prob": lambda a, b, y: losses.angle(a, b, y),
    "angle-logit": lambda a, b, y: losses.angle(a, b, y, "logit"),
}
pairs = pytest.mark.parametrize("loss", PAIRS.values(), ids=PAIRS)
moderate = hnp.arrays(np.float64, (2, 4, 5), elements=st.floats(-6, 6, width=32))
fixed = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def draw(classes: int, seed: int = 0, batch: int = 7, size: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Two logit tensors `[batch, classes]` in float64 of standard deviation `size`, and labels."""
    g = torch.Generator().manual_seed(seed)
    a, b = size * torch.randn(2, batch, classes, generator=g, dtype=torch.float64)
    return a, b, torch.randint(classes, (batch,), generator=g)


def draws() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of every number of classes, several seeds, timid and bold logits."""
    for classes, seed, size in product(CLASSES, range(5), (0.3, 2.0)):
        yield draw(classes, seed, size=size)


def confident(gap: float, classes: int = 10, batch: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """As `draw`, the true class `gap` above the rest: mean p_y near 1 - classes exp(-gap)."""
    a, b, y = draw(classes, batch=batch, size=1.0)
    return a + gap * losses.true_class(a, y), b + gap * losses.true_class(b, y), y


def same(actual: Tensor, expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10, atol=1e-10)


# ---- the oracle -----------------------------------------------------------------------------------------
def test_ce_and_prob_equal_the_oracle() -> None:
    for a, _, y in draws():
        same(losses.ce(a, y), oracle.ce(a, y))
        same(losses.prob(a, y), oracle.prob(a, y))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tau", (1.0, 4.0, 30.0))
def test_kl_equals_the_oracle(tau: float, scale: losses.KLScale) -> None:
    for a, b, _ in draws():
        same(losses.kl(a, b, tau, scale), oracle.kl(a, b, tau, scale))


@pytest.mark.parametrize("kappa", (0.0, 1.0, 50.0))
def test_margin_equals_the_oracle(kappa: float) -> None:
    for a, _, y in draws():
        same(losses.margin(a, y, kappa), oracle.margin(a, y, kappa))


@pytest.mark.parametrize("space", SPACES)
def test_angle_equals_the_literal_equation_5(space: losses.Space) -> None:
    for a, b, y in draws():
        same(losses.angle(a, b, y, space), oracle.angle(a, b, y, space))


@pytest.mark.parametrize("delta", (0.05, 0.5, 1.0, 3.0))
def test_huber_equals_the_oracle(delta: float) -> None:
    for a, b, _ in draws():
        same(losses.huber(a[:, 0], b[:, 0], delta), oracle.huber(a[:, 0], b[:, 0], delta))


def test_defaults_are_the_documented_ones() -> None:
    a, b, y = draw(10)
    same(losses.kl(a, b), oracle.kl(a, b, 1.0, "batchmean"))
    same(losses.margin(a, y), oracle.margin(a, y, 50.0))
    same(losses.angle(a, b, y), oracle.angle(a, b, y, "prob"))
    same(losses.huber(a[:, 0], b[:, 0]), oracle.huber(a[:, 0], b[:, 0], 1.0))


# ---- answers known by hand ------------------------------------------------------------------------------
def test_answers_known_by_hand() -> None:
    even, odds = torch.zeros(1, 2).double(), torch.tensor([[0.0, 3.0]]).double().log1p()  # p = (1/2, 1/2), (1/5, 4/5)
    y = torch.tensor([1])
    same(losses.ce(even, y), np.log([2.0]))
    same(losses.prob(odds, y), np.array([0.8]))
    same(losses.kl(odds, even), np.array([0.5 * np.log(5 / 2) + 0.5 * np.log(5 / 8)]))
    same(losses.kl(even, odds), np.array([0.2 * np.log(2 / 5) + 0.8 * np.log(8 / 5)]))
    logits = torch.tensor([[1.0, 4.0, 2.0]]).double()
    same(losses.margin(logits, y, 0.0), np.array([-2.0]))
    same(losses.margin(logits, y), np.array([-52.0]))
    same(losses.huber(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 1.0]), 1.0), np.array([0.125, 1.5]))


def test_angle_of_a_uniform_and_a_one_hot_rest() -> None:
    """q uniform over 4 wrong classes, q' on one of them: (1 + 1/4) / sqrt((1 + 1/4) 2)."""
    uniform = torch.zeros(1, 5).double()
    peaked = torch.tensor([[0.0, 1e3, 0.0, 0.0, 0.0]]).double()
    same(losses.angle(uniform, peaked, torch.tensor([0])), np.array([1.25 / np.sqrt(2.5)]))


# ---- KL -------------------------------------------------------------------------------------------------
@fixed
@given(moderate)
def test_kl_is_never_negative_and_zero_for_equal_logits(z: NDArray[np.float64]) -> None:
    a, b = torch.from_numpy(z)
    assert (losses.kl(a, b) >= -1e-15).all()
    assert (losses.kl(a, a.clone()) == 0).all()
    assert (losses.kl(a + 3.0, a).abs() < 1e-14).all()  # softmax ignores a shift


def test_kl_takes_the_target_as_reference() -> None:
    """KL(p_target || p_input): a class that the target excludes costs nothing, one that it wants costs."""
    flat, sure = torch.zeros(1, 3).double(), torch.tensor([[60.0, 0.0, 0.0]]).double()
    assert losses.kl(flat, sure).item() == pytest.approx(np.log(3))
    assert losses.kl(sure, flat).item() == pytest.approx(40 - np.log(3))


@pytest.mark.parametrize("scale, factor", (("batchmean", 1), ("element_mean", 1 / 10), ("rslad", 0.1), ("sum", 7)))
def test_kl_scales_at_ten_classes(scale: losses.KLScale, factor: float) -> None:
    a, b, _ = draw(10)
    assert losses.kl_factor(scale, a) == pytest.approx(factor)
    torch.testing.assert_close(losses.kl(a, b, scale=scale), factor * losses.kl(a, b))


def test_the_rslad_scale_ignores_the_number_of_classes() -> None:
    a, _, _ = draw(100)
    assert losses.kl_factor("rslad", a) == 0.1
    assert losses.kl_factor("element_mean", a) == pytest.approx(0.01)


# ---- gradients ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", (3, 5))
@pairs
def test_gradients_in_both_arguments(loss: Callable[[Tensor, Tensor, Tensor], Tensor], classes: int) -> None:
    a, b, y = draw(classes, seed=1, batch=3)
    assert gradcheck(lambda u, v: loss(u, v, y), (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize("tau", (1.0, 4.0))
def test_kl_gradient_reaches_both_arguments(tau: float) -> None:
    a, b, _ = draw(4, batch=3)
    assert gradcheck(lambda u, v: losses.kl(u, v, tau), (a.requires_grad_(), b.requires_grad_()))
    for gradient in torch.autograd.grad(losses.kl(a, b, tau).sum(), (a, b)):
        assert (gradient.abs() > 0).all()


def test_margin_gradient_stops_at_the_hinge() -> None:
    z = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]]).double().requires_grad_()
    y = torch.tensor([0, 0])
    assert gradcheck(lambda v: losses.margin(v, y, 1.0), (z,))
    gradient = torch.autograd.grad(losses.margin(z, y, 1.0).sum(), z)[0]
    assert gradient.tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_huber_gradient_on_both_sides_of_delta() -> None:
    a = torch.tensor([0.1, -0.2, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda u, v: losses.huber(u, v, 0.5), (a, b))


# ---- shape, independence, precision ---------------------------------------------------------------------
@pairs
def test_one_value_per_example_that_ignores_the_others(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    a, b, y = draw(10, batch=8)
    values = loss(a, b, y)
    assert values.shape == (8,)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss(a[order], b[order], y[order]), values[order], rtol=1e-13, atol=1e-13)
    halves = [loss(a[part], b[part], y[part]) for part in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(halves), values, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("half", (torch.bfloat16, torch.float16))
@pairs
def test_half_precision_is_upcast(loss: Callable[[Tensor, Tensor, Tensor], Tensor], half: torch.dtype) -> None:
    a, b, y = draw(10)
    a, b = a.to(half), b.to(half)
    values = loss(a, b, y)
    assert values.dtype == torch.float32
    assert torch.equal(values, loss(a.float(), b.float(), y))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pairs
def test_full_precision_is_kept(loss: Callable[[Tensor, Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    a, b, y = draw(10)
    values = loss(a.to(dtype), b.to(dtype), y)
    assert values.dtype == dtype
    torch.testing.assert_close(values.double(), loss(a, b, y), rtol=1e-5, atol=1e-5)


@pairs
def test_no_loss_needs_the_values_on_the_host(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """On device meta `.item()`, `if tensor` and reads by mask raise."""
    a, b, y = (v.to("meta") for v in draw(10))
    values = loss(a.requires_grad_(), b, y)
    assert values.shape == (7,)
    assert torch.autograd.grad(values.sum(), a)[0].shape == a.shape


# ---- facts about the triangular relationship ------------------------------------------------------------
@fixed
@given(moderate, st.integers(0, 4))
def test_angle_in_probability_space_lies_between_a_half_and_one(z: NDArray[np.float64], label: int) -> None:
    a, b = torch.from_numpy(z)
    psi = losses.angle(a, b, torch.full((4,), label))
    assert (psi >= 0.5 - 1e-12).all()
    assert (psi <= 1 + 1e-12).all()


def test_angle_in_probability_space_reaches_its_bounds() -> None:
    a = torch.tensor([[0.0, 900.0, 0.0]]).double()
    b = torch.tensor([[0.0, 0.0, 900.0]]).double()
    y = torch.tensor([0])
    same(losses.angle(a, b, y), np.array([0.5]))
    same(losses.angle(a, a, y), np.array([1.0]))


@pytest.mark.parametrize("classes", CLASSES)
def test_angle_in_logit_space_lies_between_minus_one_and_one_and_reaches_both(classes: int) -> None:
    a, b, y = draw(classes)
    label = losses.true_class(a, y).double()
    assert (losses.angle(a, b, y, "logit").abs() <= 1 + 1e-12).all()
    same(losses.angle(a, label + 2 * (a - label), y, "logit"), np.ones(7))
    same(losses.angle(a, label - 2 * (a - label), y, "logit"), -np.ones(7))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("shift", (-100.0, -1.0, 5.0, 1e4))
def test_angle_ignores_the_true_class_logit(shift: float, dtype: torch.dtype) -> None:
    a, b, y = draw(10)
    a, b = a.to(dtype), b.to(dtype)
    moved = a + shift * losses.true_class(a, y)
    assert torch.equal(losses.angle(moved, b, y), losses.angle(a, b, y))
    assert torch.equal(losses.angle(b, moved, y), losses.angle(b, a, y))
    assert not torch.equal(losses.angle(moved, b, y, "logit"), losses.angle(a, b, y, "logit"))


def test_angle_has_no_gradient_in_the_true_class_logit() -> None:
    a, b, y = draw(10)
    psi = losses.angle(a.requires_grad_(), b.requires_grad_(), y)
    for gradient in torch.autograd.grad(psi.sum(), (a, b)):
        assert (gradient.gather(1, y[:, None]) == 0).all()
        assert (gradient.abs().sum(1) > 0).all()


def test_angle_is_one_for_two_classes() -> None:
    a, b, y = draw(2, size=20.0)
    assert (losses.angle(a, b, y) == 1).all()


def test_closed_form_is_accurate_in_float32_where_the_literal_formula_fails() -> None:
    a, b, y = confident(gap=13.0)
    assert 0.99996 < losses.prob(a, y).mean() < 0.99998
    truth = oracle.angle(a, b, y)
    literal = oracle.angle(a.float(), b.float(), y, dtype=np.float32)
    closed = losses.angle(a.float(), b.float(), y).numpy()
    assert np.abs(literal - truth).max() > 1e-3
    np.testing.assert_allclose(closed, truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gap", (20.0, 50.0, 300.0))
def test_closed_form_holds_at_any_confidence(gap: float) -> None:
    a, b, y = confident(gap)
    truth = oracle.angle_confident(a, b, y)
    same(losses.angle(a, b, y), truth)
    a32 = a.float().requires_grad_()
    psi = losses.angle(a32, b.float(), y)
    np.testing.assert_allclose(psi.detach().numpy(), truth, rtol=0, atol=1e-6)
    assert torch.autograd.grad(psi.sum(), a32)[0].isfinite().all()


@pytest.mark.parametrize("delta", (0.5, 1.0, 2.0))
def test_huber_of_angles_is_half_the_square(delta: float) -> None:
    """|psi_t - psi_s| <= 1/2, so a delta of at least 1/2 is never reached; a smaller one is."""
    a, b, y = draw(10, batch=32, size=8.0)
    psi = torch.cat([losses.angle(a, b, y), torch.tensor([0.5]).double()])
    teacher = torch.cat([losses.angle(b, b, y), torch.tensor([1.0]).double()])
    half_square = (psi - teacher).square().numpy() / 2
    same(losses.huber(psi, teacher, delta), half_square)
    assert np.abs(losses.huber(psi, teacher, 0.1).numpy() - half_square).max() > 1e-2
