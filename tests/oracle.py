"""Table 1 of the MMARD paper (arXiv 2503.06559) in float64 numpy, written from the paper alone.

It imports nothing of the package that it judges. Logits are `[B, C]` arrays, labels `y` `[B]` integers; every
function returns a per-example `[B]` array. `s, s_adv, t, t_adv` are S(x), S(x'), T(x), T(x'). Formulas are
literal where that is numerically possible: plain sums over classes, no closed forms.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]
FULL = np.float64


# ---- building blocks ------------------------------------------------------------------------------------
def log_softmax(z: ArrayLike, tau: float = 1.0, dtype: DTypeLike = FULL) -> Array:
    """log p^tau, with p^tau = exp(z / tau) / sum exp(z / tau)."""
    v = np.asarray(z, dtype=dtype) / np.asarray(tau, dtype=dtype)
    v = v - v.max(axis=-1, keepdims=True)
    return np.asarray(v - np.log(np.exp(v).sum(axis=-1, keepdims=True)))


def softmax(z: ArrayLike, tau: float = 1.0, dtype: DTypeLike = FULL) -> Array:
    """p^tau = exp(z / tau) / sum exp(z / tau)."""
    return np.asarray(np.exp(log_softmax(z, tau, dtype)))


def onehot(y: ArrayLike, classes: int, dtype: DTypeLike = FULL) -> Array:
    """The label as a vector, `[B, C]`."""
    return np.asarray(np.eye(classes, dtype=dtype)[np.asarray(y)])


def prob(z: ArrayLike, y: ArrayLike) -> Array:
    """p_y: the probability of the true class."""
    p = softmax(z)
    return np.asarray((p * onehot(y, p.shape[-1])).sum(axis=-1))


def ce(z: ArrayLike, y: ArrayLike, tau: float = 1.0) -> Array:
    """CE(z^tau, y) = -log p^tau_y."""
    log_p = log_softmax(z, tau)
    return np.asarray(-(log_p * onehot(y, log_p.shape[-1])).sum(axis=-1))


def kl(input: ArrayLike, target: ArrayLike, tau: float = 1.0, scale: str = "batchmean") -> Array:
    """KL(input, target) in the papers' order, that is sum_c q_c (log q_c - log p_c), q of the target.

    scale: batchmean is the textbook KL; element_mean divides by C (a mean over batch and classes);
    rslad divides by 10 whatever C; sum multiplies by B, so that a batch mean of it is a batch sum.
    """
    log_p, log_q = log_softmax(input, tau), log_softmax(target, tau)
    textbook = (np.exp(log_q) * (log_q - log_p)).sum(axis=-1)
    batch, classes = log_p.shape
    if scale == "element_mean":
        return np.asarray(textbook / classes)
    if scale == "rslad":
        return np.asarray(textbook / 10)
    return np.asarray(textbook * {"batchmean": 1, "sum": batch}[scale])


def margin(z: ArrayLike, y: ArrayLike, kappa: float = 50.0) -> Array:
    """Carlini and Wagner: -max(z_y - max_{j != y} z_j + kappa, 0), example by example."""
    rows = [np.asarray(row, dtype=FULL) for row in np.asarray(z)]
    gaps = [row[label] - np.delete(row, label).max() for row, label in zip(rows, np.asarray(y), strict=True)]
    return -np.maximum(np.asarray(gaps) + kappa, 0)


def cosine(u: Array, v: Array) -> Array:
    """<u / ||u||, v / ||v||>, row by row."""
    e = u / np.sqrt((u * u).sum(axis=-1, keepdims=True))
    f = v / np.sqrt((v * v).sum(axis=-1, keepdims=True))
    return np.asarray((e * f).sum(axis=-1))


def angle(
    natural: ArrayLike, adversarial: ArrayLike, y: ArrayLike, space: str = "prob", dtype: DTypeLike = FULL
) -> Array:
    """psi of Eq. 5, literally: <e(v), e(v')> with e(v) = (v - y) / ||v - y||_2.

    v are probabilities, or the logits themselves. In probability space 1 - p_y cancels: in float64 the error
    is about 1e-16 / (1 - p_y), so compare to 1e-10 only while 1 - p_y > 1e-5, else use `angle_confident`.
    `dtype` is the precision that the formula is evaluated in.
    """
    if space == "prob":
        v, w = softmax(natural, dtype=dtype), softmax(adversarial, dtype=dtype)
    else:
        v, w = np.asarray(natural, dtype=dtype), np.asarray(adversarial, dtype=dtype)
    label = onehot(y, v.shape[-1], dtype)
    return cosine(v - label, w - label)


def angle_confident(natural: ArrayLike, adversarial: ArrayLike, y: ArrayLike) -> Array:
    """psi of Eq. 5 in probability space with the true class's p_y - 1 written as -sum_{j != y} p_j.

    The same number without the cancellation, right while p_j^2 does not underflow (logit gaps up to 300).
    """

    def residual(z: ArrayLike) -> Array:
        p = softmax(z)
        label = onehot(y, p.shape[-1])
        wrong = p * (1 - label)
        return np.asarray(wrong - label * wrong.sum(axis=-1, keepdims=True))

    return cosine(residual(natural), residual(adversarial))


def huber(a: ArrayLike, b: ArrayLike, delta: float = 1.0) -> Array:
    """l_delta(a, b): d^2 / 2 up to |d| = delta, then delta (|d| - delta / 2), with d = a - b."""
    d = np.abs(np.asarray(a, dtype=FULL) - np.asarray(b, dtype=FULL))
    return np.where(d <= delta, d * d / 2, delta * (d - delta / 2))


def trd(
    s: ArrayLike,
    s_adv: ArrayLike,
    t: ArrayLike,
    t_adv: ArrayLike,
    y: ArrayLike,
    *,
    space: str = "prob",
    delta: float = 1.0,
    reduction: str = "mean",
) -> Array:
    """Eq. 6 per example: l_delta(psi_t, psi_s); `sum` multiplies by B, so that the batch mean is the sum."""
    loss = huber(angle(t, t_adv, y, space), angle(s, s_adv, y, space), delta)
    return loss * {"mean": 1, "sum": len(loss)}[reduction]


# ---- Table 1: outer -------------------------------------------------------------------------------------
def nature_outer(s: ArrayLike, y: ArrayLike) -> Array:
    """CE(f(x), y)."""
    return ce(s, y)


def sat_outer(s_adv: ArrayLike, y: ArrayLike) -> Array:
    """CE(f(x'), y)."""
    return ce(s_adv, y)


def trades_outer(s: ArrayLike, s_adv: ArrayLike, y: ArrayLike, *, lam: float = 6.0, scale: str = "batchmean") -> Array:
    """CE(f(x), y) + lambda KL(f(x'), f(x))."""
    return ce(s, y) + lam * kl(s_adv, s, scale=scale)


def ard_outer(
    s: ArrayLike,
    s_adv: ArrayLike,
    t: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float = 1.0,
    tau: float = 30.0,
    ce_tau: float | None = None,
    scale: str = "batchmean",
) -> Array:
    """(1 - alpha) CE(S^tau(x), y) + alpha tau^2 KL(S^tau(x'), T^tau(x)); published code has ce_tau = 1."""
    hard = ce(s, y, tau if ce_tau is None else ce_tau)
    return (1 - alpha) * hard + alpha * tau**2 * kl(s_adv, t, tau, scale)


def iad_outer(
    s: ArrayLike,
    s_adv: ArrayLike,
    t: ArrayLike,
    t_adv: ArrayLike,
    y: ArrayLike,
    *,
    beta: float = 0.1,
    tau: float = 1.0,
    scale: str = "batchmean",
) -> Array:
    """w KL(S^tau(x'), T^tau(x)) + (1 - w) KL(S^tau(x'), S^tau(x)), w = T_y(x')^beta."""
    w = prob(t_adv, y) ** beta
    return w * kl(s_adv, t, tau, scale) + (1 - w) * kl(s_adv, s, tau, scale)


def iad_ii_outer(
    s: ArrayLike,
    s_adv: ArrayLike,
    t_adv: ArrayLike,
    clean_adv: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float = 0.5,
    alpha_clean: float = 0.25,
    beta: float = 0.1,
    tau: float = 1.0,
    scale: str = "batchmean",
) -> Array:
    """a [w tau^2 KL(S(x'), T(x')) + (1-w) KL(S(x'), S(x))] + b tau^2 KL(S(x'), T_st(x')) + (1-a-b) CE(S(x'), y)."""
    w = prob(t_adv, y) ** beta
    bracket = w * tau**2 * kl(s_adv, t_adv, tau, scale) + (1 - w) * kl(s_adv, s, scale=scale)
    clean = tau**2 * kl(s_adv, clean_adv, tau, scale)
    return alpha * bracket + alpha_clean * clean + (1 - alpha - alpha_clean) * ce(s_adv, y)


def rslad_outer(
    s: ArrayLike, s_adv: ArrayLike, t: ArrayLike, *, alpha: float = 5 / 6, scale: str = "batchmean"
) -> Array:
    """(1 - alpha) KL(S(x), T(x)) + alpha KL(S(x'), T(x))."""
    return (1 - alpha) * kl(s, t, scale=scale) + alpha * kl(s_adv, t, scale=scale)


def mtard_outer(
    s: ArrayLike,
    s_adv: ArrayLike,
    t_nat: ArrayLike,
    t_adv_adv: ArrayLike,
    *,
    alpha: float = 0.5,
    scale: str = "batchmean",
) -> Array:
    """alpha KL(S(x), T_nat(x)) + (1 - alpha) KL(S(x'), T_adv(x'))."""
    return alpha * kl(s, t_nat, scale=scale) + (1 - alpha) * kl(s_adv, t_adv_adv, scale=scale)


def mmard_outer(
    s: ArrayLike,
    s_adv: ArrayLike,
    t: ArrayLike,
    t_adv: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float = 1.0,
    scale: str = "batchmean",
    space: str = "prob",
    delta: float = 1.0,
    reduction: str = "mean",
) -> Array:
    """Eq. 7: KL(S(x'), T(x')) + alpha l_delta(psi_t, psi_s)."""
    triangle = trd(s, s_adv, t, t_adv, y, space=space, delta=delta, reduction=reduction)
    return kl(s_adv, t_adv, scale=scale) + alpha * triangle


# ---- Table 1: inner -------------------------------------------------------------------------------------
def ce_inner(s_adv: ArrayLike, y: ArrayLike) -> Array:
    """SAT, ARD, IAD, MTARD: CE(S(x'), y)."""
    return ce(s_adv, y)


def trades_inner(s: ArrayLike, s_adv: ArrayLike) -> Array:
    """TRADES: KL(f(x'), f(x))."""
    return kl(s_adv, s)


def rslad_inner(s_adv: ArrayLike, t: ArrayLike) -> Array:
    """RSLAD: KL(S(x'), T(x))."""
    return kl(s_adv, t)


def mmard_inner(s_adv: ArrayLike, t_adv: ArrayLike) -> Array:
    """MMARD, Eq. 3: KL(S(x'), T(x'))."""
    return kl(s_adv, t_adv)
