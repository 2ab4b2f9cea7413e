"""What a network shows at single images, attacked by nobody: its gradients, its logits, and whether they repeat.

A look costs a few forwards an image. The thresholds stand on what sound networks show; see docs/alarms.md.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustdistill.evaluation.alarms import Alarm, alarm
from robustdistill.evaluation.suite import judge
from robustdistill.logits import Logits
from robustdistill.losses import ce, full_precision
from robustdistill.types import Attack, Objective

Look = Callable[[Logits, float, Generator], Tensor]
"""(one batch, eps, its randomness) -> something for each example, `[B, ...]`."""

FEW = 0.01  # share of images with a zero gradient or saturated logits that is put down to very easy images
GAP = 80.0  # nats between the two largest logits; float32 is at its smallest normal number at exp(-87)
DIFFERENT = 1e-4  # of the largest logit: far above the rounding of one kernel, as in AutoAttack's own check
SUMS_TO_ONE = 1e-2  # bfloat16 probabilities are off by as much; logits do not come near on every image
DISTINCT = 0.5  # share of distinct values among the logits looked at; in float32 nearly all differ
MOST = 256  # images whose logits are compared for that: float32 itself runs short of values among millions
NUDGE, FINER = 1e-3, 0.1  # a nudge below half a step of 8-bit pixels, and one a tenth of it
RISE = 0.4  # change of the logits under the finer nudge over that under the nudge: 0.1 if smooth, 1 at a step
STEPPING = 0.1  # share of images with such a rise that kinks and rounding may cause


def look_alarms(network: nn.Module, x: Tensor, y: Tensor, **common: Any) -> Iterator[Alarm]:
    """The alarms that need no gradient: logits, steps, randomness. Args as `judge`; 12 forwards an image."""
    yield from _of_logits(seen(network, x, y, logits, **common))
    yield from _of_nudges(seen(network, x, y, nudges, **common))
    yield from _of_repeats(seen(network, x, y, repeats, **common))


def seen(network: nn.Module, x: Tensor, y: Tensor, look: Look, *, name: str, **common: Any) -> Tensor:
    """What `look` sees of each image, `[N, ...]` on the CPU, with the network standing as under `judge`.

    The arguments are those of `judge`; `name` goes to its generator. Cost: the look and 2 forwards an image.
    """
    parts: list[Tensor] = []

    def standing(z: Logits, objective: Objective, /, *, eps: float, generator: Generator) -> Tensor:
        parts.append(look(z, eps, generator).detach().cpu())
        return z.x

    judge(network, x, y, name, Attack(standing), **common)
    return torch.cat(parts)


# ---- looks ------------------------------------------------------------------------------------------------
def gradients(z: Logits, eps: float, generator: Generator) -> Tensor:
    """[B, 3]: is the input gradient of CE all zero at x or at a random start; is it at both; is it ever not finite."""
    start = (z.x + eps * (2 * _rand(z.x, generator) - 1)).clamp(0, 1)
    found = [_gradient(z, v).flatten(1) for v in (z.x, start)]
    zero = [(g == 0).all(dim=1) for g in found]
    broken = [~g.isfinite().all(dim=1) for g in found]
    return torch.stack([zero[0] | zero[1], zero[0] & zero[1], broken[0] | broken[1]], dim=1)


def logits(z: Logits, eps: float, generator: Generator) -> Tensor:
    """[B, C]: S(x)."""
    return full_precision(z.s)


def nudges(z: Logits, eps: float, generator: Generator) -> Tensor:
    """[B, 2]: largest change of a logit under a nudge of +-NUDGE at every pixel, and under FINER times it."""
    signs = (_rand(z.x, generator) - 0.5).sign()
    moved = [z.student((z.x + size * signs).clamp(0, 1)) for size in (NUDGE, FINER * NUDGE)]
    return torch.stack([(full_precision(m) - full_precision(z.s)).abs().amax(dim=1) for m in moved], dim=1)


def repeats(z: Logits, eps: float, generator: Generator) -> Tensor:
    """[B]: largest difference between two forwards of the same images, over the largest logit."""
    one, two = z.s, z.student(z.x)
    return (one - two).abs().amax(dim=1) / one.abs().amax(dim=1).clamp(min=torch.finfo(one.dtype).tiny)


def _gradient(z: Logits, v: Tensor) -> Tensor:
    v = v.detach().requires_grad_()
    value = ce(z.at(v).s_adv, z.y).sum()
    if not value.requires_grad:  # the network detaches, or runs under no_grad
        return torch.zeros_like(v)
    (grad,) = torch.autograd.grad(value, v, allow_unused=True, materialize_grads=True)
    return grad


def _rand(like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


# ---- what they mean ---------------------------------------------------------------------------------------
def blind(found: Tensor) -> bool:
    """Whether an attack by gradients has nothing to follow, from what `gradients` found."""
    _, still, broken = found.unbind(dim=1)
    return bool(broken.any()) or bool(still.all())


def probabilities(z: Tensor) -> bool:
    """Whether outputs `z` `[N, C]` are probabilities: nowhere negative, and on every image their sum is 1."""
    return bool((z >= 0).all()) and bool(((z.sum(dim=1) - 1).abs() < SUMS_TO_ONE).all())


def gradient_alarms(found: Tensor) -> Iterator[Alarm]:
    """The alarms of what `gradients` found."""
    zero, _, broken = found.unbind(dim=1)
    if bool(broken.any()):
        yield alarm("nan-gradient", f"the gradient of the cross-entropy is not finite on {_images(broken)}")
    if zero.double().mean() > FEW:
        yield alarm("zero-gradient", f"the gradient of the cross-entropy is exactly zero on {_images(zero)}")


def _of_logits(z: Tensor) -> Iterator[Alarm]:
    top = z.topk(2, dim=1).values
    saturated = top[:, 0] - top[:, 1] > GAP
    if saturated.double().mean() > FEW:
        yield alarm("saturated-logits", f"the largest logit leads by more than {GAP:g} on {_images(saturated)}")
    if probabilities(z):
        yield alarm("probabilities", f"the outputs are not negative and sum to 1 on all {len(z)} images")
    few = z[:MOST]
    distinct = len(torch.unique(few))
    if distinct < DISTINCT * few.numel():
        yield alarm("quantised-logits", f"{few.numel():,} logits take {distinct:,} values")


def _of_nudges(change: Tensor) -> Iterator[Alarm]:
    coarse, fine = change.unbind(dim=1)
    stepping = (fine == 0) | (fine > RISE * coarse)
    if stepping.double().mean() > STEPPING:
        seen = f"on {_images(stepping)} a change of {FINER * NUDGE:g} in every pixel moves the logits not at all"
        yield alarm("step-function", f"{seen}, or nearly as much as a change of {NUDGE:g}")


def _of_repeats(difference: Tensor) -> Iterator[Alarm]:
    moving = difference > DIFFERENT
    if bool(moving.any()):
        seen = f"two forwards of the same images differ on {_images(moving)}"
        yield alarm("randomised", f"{seen}, by up to {float(difference.max()):.2g} of the largest logit")


def _images(which: Tensor) -> str:
    return f"{int(which.sum())} of {len(which)} images"
