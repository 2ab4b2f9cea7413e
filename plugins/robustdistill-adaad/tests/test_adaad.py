"""adaad and adaiad against the formulas in float64 numpy, and what is known of them in advance."""

from typing import Any

import numpy as np
import pytest
import torch
from robustdistill_adaad import adaad, adaiad
from torch import Tensor

from robustdistill import Logits
from robustdistill.logits import Clock, Networks, Reductions
from robustdistill.losses import kl
from robustdistill.testing import check_method, check_objective

Array = Any
SCALES = {"batchmean": 1.0, "element_mean": 1 / 5, "rslad": 0.1}


# ---- the formulas, literally ----------------------------------------------------------------------------
def softmax(z: Array, tau: float = 1.0) -> Array:
    e = np.exp((z - z.max(axis=1, keepdims=True)) / tau)
    return e / e.sum(axis=1, keepdims=True)


def divergence(input: Array, target: Array, tau: float = 1.0) -> Array:
    p, q = softmax(input, tau), softmax(target, tau)
    return (q * np.log(q / p)).sum(axis=1)


def expected_adaad(s: Array, s_adv: Array, t: Array, t_adv: Array, *, alpha: float) -> Array:
    return alpha * divergence(s_adv, t_adv) + (1 - alpha) * divergence(s, t)


def expected_adaiad(s: Array, s_adv: Array, t_adv: Array, y: Array, *, beta: float, tau: float, trusted: bool) -> Array:
    w = 1.0 if trusted else softmax(t_adv)[np.arange(len(y)), y] ** beta
    return w * tau**2 * divergence(s_adv, t_adv, tau) + (1 - w) * divergence(s_adv, s)


# ---- a batch --------------------------------------------------------------------------------------------
def batch(epoch: int = 0, dtype: torch.dtype = torch.float64, log: list[str] | None = None) -> Logits:
    """Six images of 8 pixels, 5 classes, 10 epochs; x' lies 0.1 from x. `log` notes each forward."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 8, 5, generator=g, dtype=torch.float64)
    x, noise = torch.rand(2, 6, 8, generator=g, dtype=torch.float64)

    def network(name: str, weights: Tensor) -> Any:
        def forward(v: Tensor) -> Tensor:
            if log is not None:
                log.append(name + ("(x)" if torch.equal(v, x) else "(x')"))
            return (3 * torch.sin(v @ weights)).to(dtype)

        return forward

    networks = Networks(network("S", a), {"robust": network("T", b)})
    z = Logits(x, torch.tensor([0, 1, 2, 3, 4, 0]), networks, clock=Clock.at(epoch, 10))
    return z.at(x + 0.1 * (2 * noise - 1).sign())


@pytest.mark.parametrize("objective", [adaad, adaiad])
def test_a_sum_is_over_the_global_batch(objective: Any) -> None:
    def loss(processes: int) -> Tensor:
        z = batch(epoch=5)
        z._reductions = Reductions(size=lambda n: processes * n)
        return objective(z, kl_scale="sum")  # type: ignore[no-any-return]

    torch.testing.assert_close(loss(2), 2 * loss(1))


def arrays(z: Logits, *names: str) -> Any:
    return [getattr(z, name).numpy() for name in names]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_adaad_is_its_formula(alpha: float, scale: Any) -> None:
    z = batch()
    expected = SCALES[scale] * expected_adaad(*arrays(z, "s", "s_adv", "t", "t_adv"), alpha=alpha)
    np.testing.assert_allclose(adaad(z, alpha=alpha, kl_scale=scale).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("epoch", "begin", "trusted"), [(2, 0.3, True), (3, 0.3, False), (0, 0.0, False)])
@pytest.mark.parametrize("tau", [1.0, 30.0])
def test_adaiad_is_its_formula(tau: float, epoch: int, begin: float, trusted: bool) -> None:
    z = batch(epoch)
    expected = expected_adaiad(*arrays(z, "s", "s_adv", "t_adv", "y"), beta=0.7, tau=tau, trusted=trusted)
    np.testing.assert_allclose(adaiad(z, beta=0.7, tau=tau, begin=begin).numpy(), expected, rtol=1e-12)


def test_the_published_adaiad_leaves_the_teachers_term_unweighted() -> None:
    z = batch(9)
    weighted, published = adaiad(z, beta=1.0), adaiad(z, beta=1.0, teacher_weight="one")
    np.testing.assert_allclose(published - weighted, (1 - softmax(z.t_adv.numpy())[range(6), z.y]) * teacher_term(z))


def teacher_term(z: Logits) -> Array:
    return 900 * divergence(z.s_adv.numpy(), z.t_adv.numpy(), 30)


def test_what_is_run_and_in_which_order() -> None:
    cases: list[tuple[Any, list[str]]] = [
        (lambda z: adaad(z), ["S(x')", "T(x')"]),
        (lambda z: adaad(z, alpha=0.5), ["S(x)", "T(x)", "S(x')", "T(x')"]),
        (lambda z: adaiad(z), ["T(x')", "S(x')", "S(x)"]),
    ]
    for call, forwards in cases:
        log: list[str] = []
        call(batch(log=log))
        assert log == forwards


def test_gradients_reach_x_adv_through_both_networks() -> None:
    z = batch()
    x_adv = z.x_adv.clone().requires_grad_()
    (full,) = torch.autograd.grad(adaad(z.at(x_adv)).sum(), x_adv)
    at = z.at(x_adv)
    (student,) = torch.autograd.grad(kl(at.s_adv, at.t_adv.detach()).sum(), x_adv)
    step = torch.zeros_like(x_adv).index_fill_(1, torch.tensor(3), 1e-6)
    numeric = (adaad(z.at(z.x_adv + step)) - adaad(z.at(z.x_adv - step))) / 2e-6
    torch.testing.assert_close(full[:, 3], numeric, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(full, student)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    z = batch()
    twin = Logits(z.x, z.y, Networks(torch.sin, {"robust": torch.sin})).at(z.x_adv)
    assert float(adaad(twin, alpha=0.5).abs().max()) < 1e-15


def test_half_precision_logits_give_finite_losses_close_to_the_right_ones() -> None:
    for objective in (adaad, adaiad):
        exact, half = (objective(batch(9, dtype)).double() for dtype in (torch.float64, torch.bfloat16))
        assert torch.isfinite(half).all()
        torch.testing.assert_close(half, exact, rtol=0.1, atol=0.05)


# ---- the contract --------------------------------------------------------------------------------------
@pytest.mark.parametrize("params", [{}, {"alpha": 0.5}], ids=str)
def test_adaad_keeps_the_contract_of_objectives(params: dict[str, Any]) -> None:
    check_objective(adaad, **params)


@pytest.mark.parametrize("params", [{}, {"begin": 0.0, "teacher_weight": "one"}], ids=str)
def test_adaiad_keeps_the_contract_of_objectives(params: dict[str, Any]) -> None:
    check_objective(adaiad, **params)


@pytest.mark.parametrize("method", ["adaad", "adaiad"])
def test_the_installed_methods_train(method: str) -> None:
    check_method(method)
