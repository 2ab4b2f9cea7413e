"""Per-example losses on logits: every function maps to `[B]` and never reduces over the batch.

Half-precision logits are upcast to float32 and nothing is ever downcast (float64 stays float64), so a
loss is exact to the precision that it is given. Reducing over the batch is the engine's business.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

KLScale = Literal["batchmean", "element_mean", "rslad", "sum"]
Space = Literal["prob", "logit"]
Reduction = Literal["mean", "sum"]


def full_precision(v: Tensor) -> Tensor:
    """`v` in float32 if it was bfloat16 or float16, else `v` itself."""
    return v.float() if v.dtype in (torch.bfloat16, torch.float16) else v


def ce(logits: Tensor, y: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy, -log softmax(logits / tau)_y.

    Args: logits `[B, C]`; y `[B]` int64 class indices; tau > 0. Returns `[B]`, in nats.
    """
    return F.cross_entropy(full_precision(logits) / tau, y, reduction="none")


def kl(
    input: Tensor, target: Tensor, tau: float = 1.0, scale: KLScale = "batchmean", batch: int | None = None
) -> Tensor:
    """Kullback-Leibler divergence KL(p_target || p_input) with p_v = softmax(v / tau).

    The ARD papers write it KL(S, T): the argument order of PyTorch's loss; the teacher is the reference
    distribution. Gradients flow into both arguments unless the caller detaches one. No tau^2 factor.

    Args: input, target `[B, C]` logits; tau > 0; scale, batch: see `kl_factor`. Returns `[B]`, in nats.
    """
    log_p = F.log_softmax(full_precision(input) / tau, dim=-1)
    log_q = F.log_softmax(full_precision(target) / tau, dim=-1)
    return kl_factor(scale, input, batch) * (log_q.exp() * (log_q - log_p)).sum(dim=-1)


def kl_factor(scale: KLScale, logits: Tensor, batch: int | None = None) -> float:
    """What multiplies the textbook per-example KL so that its batch mean follows a code base's habit.

    batchmean: 1 (the textbook). element_mean: 1/C (PyTorch's `mean`). rslad: 0.1 for any C (RSLAD's
    published code on both CIFARs). sum: `batch`, the examples of the global batch (`z.batch_size`), by default B.
    The factor changes results: weight decay, cross-entropy and TRD do not scale with it.
    """
    here, classes = logits.shape
    return {"batchmean": 1.0, "element_mean": 1.0 / classes, "rslad": 0.1, "sum": float(batch or here)}[scale]


def prob(logits: Tensor, y: Tensor) -> Tensor:
    """Probability of the true class, softmax(logits)_y. Args as `ce`. Returns `[B]` in [0, 1]."""
    return _at_true_class(F.softmax(full_precision(logits), dim=-1), true_class(logits, y))


def true_class(logits: Tensor, y: Tensor) -> Tensor:
    """Boolean mask `[B, C]`, true at each example's label. (`F.one_hot` would ask a CPU for the largest label.)"""
    return y[:, None] == torch.arange(logits.shape[-1], device=y.device)


def _at_true_class(v: Tensor, mask: Tensor) -> Tensor:
    """`v` `[B, C]` where `mask` is true, `[B]`. (A `gather` has no deterministic gradient that can be recorded.)"""
    return v.masked_fill(~mask, 0).sum(dim=-1)


def margin(logits: Tensor, y: Tensor, kappa: float = 50.0) -> Tensor:
    """Carlini and Wagner's margin, -max(z_y - max_{j != y} z_j + kappa, 0): its ascent causes errors.

    kappa = 50 is the ARD papers' value: it practically disables the hinge. Args as `ce`. Returns `[B]`.
    Source: Carlini & Wagner 2017, as run in the evaluations of IAD and CIARD.
    """
    z = full_precision(logits)
    mask = true_class(z, y)
    wrong = z.masked_fill(mask, -torch.inf).amax(dim=-1)
    return -(_at_true_class(z, mask) - wrong + kappa).clamp(min=0)


def angle(natural: Tensor, adversarial: Tensor, y: Tensor, space: Space = "prob") -> Tensor:
    """MMARD's triangular relationship: psi = <e(v), e(v')>, e(v) = (v - onehot(y)) / ||v - onehot(y)||_2.

    In probability space the literal formula cancels catastrophically once p_y nears 1. With q the softmax
    over the wrong classes, p - onehot(y) = (1 - p_y) (q - onehot(y)), hence exactly

        psi = (1 + <q, q'>) / sqrt((1 + ||q||^2) (1 + ||q'||^2)),

    computed here on logits with the true class masked out. It lies in [1/2, 1], does not depend on p_y,
    and is 1 for C = 2. In logit space v is the logit vector itself and psi lies in [-1, 1].

    Args: natural, adversarial `[B, C]` logits of one model on x and x'; y `[B]`. Returns psi `[B]`.
    Source: MMARD (arXiv 2503.06559), Eq. 5.
    """
    a, b = full_precision(natural), full_precision(adversarial)
    mask = true_class(a, y)
    if space == "logit":
        return F.cosine_similarity(a - mask.to(a.dtype), b - mask.to(b.dtype), dim=-1, eps=1e-12)
    q = F.softmax(a.masked_fill(mask, -torch.inf), dim=-1)
    r = F.softmax(b.masked_fill(mask, -torch.inf), dim=-1)
    norms = (1 + q.square().sum(-1)) * (1 + r.square().sum(-1))
    return (1 + (q * r).sum(-1)) / norms.sqrt()


def huber(a: Tensor, b: Tensor, delta: float = 1.0) -> Tensor:
    """Huber loss of a - b: d^2/2 where |d| <= delta, else delta (|d| - delta/2). Shapes `[B]` -> `[B]`."""
    return F.huber_loss(a, b, reduction="none", delta=delta)
