"""Auto-PGD (Croce & Hein 2020, section 3): sign-gradient ascent with momentum whose step size halves itself."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from robustdistill.evaluation.autoattack.losses import Loss, ce, gradient, runners_up, targeted_loss
from robustdistill.evaluation.autoattack.replay import Loop
from robustdistill.evaluation.autoattack.wave import (
    Found,
    Wave,
    ball,
    draw,
    find_in_chunks,
    in_chunks,
    pick,
    right,
    stretches,
)
from robustdistill.logits import Forward

MOMENTUM, RHO = 0.75, 0.75


def apgd_ce(wave: Wave, *, steps: int = 100) -> Found:
    """APGD on cross-entropy from one random start."""
    start = _start(draw(wave.generators(), list(wave.sizes), wave.x.shape[1:], wave.x))
    run = partial(ascend, wave.forward, ce, eps=wave.eps, steps=steps, loop=wave.loop)
    return find_in_chunks(wave.physical, run, wave.x, wave.y, wave.y, start)


def apgd_t(wave: Wave, *, steps: int = 100, targets: int = 9) -> Found:
    """APGD on the targeted DLR loss, one random start for each target; the targets are the likeliest wrong classes.

    One target after another, as each logical batch draws noise for what then stands in it and for nothing else.
    """
    logits = in_chunks(wave.physical, wave.forward, wave.x)
    loss = targeted_loss(logits.shape[1])
    run = partial(ascend, wave.forward, loss, eps=wave.eps, steps=steps, loop=wave.loop)
    broken, x_adv = torch.zeros_like(wave.y, dtype=torch.bool), wave.x.clone()
    batch, generators = wave.batch(), wave.generators()
    for target in runners_up(logits, targets).unbind(1):
        rows = (~broken).nonzero()[:, 0]
        if len(rows) == 0:
            break
        counts = batch[rows].bincount(minlength=len(wave.sizes)).tolist()
        start = _start(draw(generators, counts, wave.x.shape[1:], wave.x))
        hit, found = find_in_chunks(wave.physical, run, wave.x[rows], wave.y[rows], target[rows], start)
        broken[rows], x_adv[rows] = hit, found
    return broken, x_adv


class _State(NamedTuple):
    """Each tensor a row an image; `row` is the image's place in the batch that the ascent was given."""

    row: Tensor
    y: Tensor
    target: Tensor
    low: Tensor
    high: Tensor
    x: Tensor
    before: Tensor  # x of the last step
    grad: Tensor
    value: Tensor  # the loss at x
    best: Tensor  # the highest loss so far, its image and its gradient
    best_x: Tensor
    best_grad: Tensor
    size: Tensor  # of the step
    rises: Tensor  # steps since the last check at which the loss rose
    checked: Tensor  # `best` at the last check
    halved: Tensor  # whether the last check halved the step
    hit: Tensor  # broken, and by which image
    hit_x: Tensor


def ascend(
    forward: Forward,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    start: Tensor,
    *,
    eps: float,
    steps: int,
    loop: Loop,
) -> Found:
    """One run from x + eps * start, |start| <= 1. Broken images leave between stretches of steps.

        v_k+1 = clip(x_k + size * sign(grad)),   x_k+1 = clip(x_k + 0.75 (v_k+1 - x_k) + 0.25 (x_k - x_k-1))

    clip is into the ball and [0, 1]. At each of `checkpoints`, images whose loss rose in at most 75 % of the steps
    since the last one, or whose best loss stands still, go back to their best point with half the step size.
    """
    broken, x_adv = torch.zeros_like(y, dtype=torch.bool), x.clone()
    s, windows = _begin(forward, loss, x, y, target, start, eps), checkpoints(steps)
    for stretch in stretches(steps):
        for part in _between(windows, stretch):
            step = partial(_step, forward, loss, MOMENTUM if part.start else 1.0)
            s = loop.advance(step, s, len(part), ahead=len(stretch))
            if part.stop in windows:
                s = _check(s, windows[part.stop])
        broken[s.row], x_adv[s.row] = s.hit, pick(s.hit, s.hit_x, x_adv[s.row])
        stands = (~s.hit).nonzero()[:, 0]
        if len(stands) == 0:
            break
        s = _State._make(t[stands] for t in s)
    return broken, x_adv


def checkpoints(steps: int) -> dict[int, int]:
    """Number of steps done -> steps since the check before: 22, 19, 16, 13, 10, 7, 6, 6 for 100."""
    window, least, less = (max(int(part * steps), 1) for part in (0.22, 0.06, 0.03))
    found, at = {}, window
    while at <= steps:
        found[at] = window
        window = max(window - less, least)
        at += window
    return found


def _between(windows: Collection[int], stretch: range) -> Iterator[range]:
    """The steps of a stretch, cut where a check follows."""
    first = stretch.start
    for last in range(stretch.start + 1, stretch.stop + 1):
        if last in windows or last == stretch.stop:
            yield range(first, last)
            first = last


def ce_passes(classes: int, *, steps: int) -> tuple[int, int]:
    """Forwards and backwards for an image that stays right under APGD-CE."""
    return steps + 1, steps + 1


def t_passes(classes: int, *, steps: int, targets: int) -> tuple[int, int]:
    """The same under APGD-T."""
    n = min(targets, classes - 1) * (steps + 1)
    return n + 1, n


def _start(uniform: Tensor) -> Tensor:
    noise = 2 * uniform - 1
    return noise / (noise.abs().amax(dim=(1, 2, 3), keepdim=True) + 1e-12)


def _begin(forward: Forward, loss: Loss, x: Tensor, y: Tensor, target: Tensor, start: Tensor, eps: float) -> _State:
    v = (x + eps * start).clamp(0, 1)
    logits, value, grad = gradient(forward, loss, v, y, target)
    stands = right(logits, y)
    return _State(
        row=torch.arange(len(x), device=x.device),
        y=y,
        target=target,
        low=ball(x, eps)[0],
        high=ball(x, eps)[1],
        x=v,
        before=v,
        grad=grad,
        value=torch.zeros_like(value),  # what the official code compares the first loss with
        best=value,
        best_x=v,
        best_grad=grad,
        size=torch.full_like(x[:, :1, :1, :1], 2 * eps),
        rises=torch.zeros_like(value),
        checked=value,
        halved=torch.ones_like(stands),
        hit=~stands,
        hit_x=v,
    )


def _step(forward: Forward, loss: Loss, weight: float, s: _State) -> _State:
    v = (s.x + s.size * s.grad.sign()).clamp(s.low, s.high)
    x = (s.x + (v - s.x) * weight + (s.x - s.before) * (1 - weight)).clamp(s.low, s.high)
    logits, value, grad = gradient(forward, loss, x, s.y, s.target)
    stands, better = right(logits, s.y), value > s.best
    return s._replace(
        x=x,
        before=s.x,
        grad=grad,
        value=value,
        best=torch.where(better, value, s.best),
        best_x=pick(better, x, s.best_x),
        best_grad=pick(better, grad, s.best_grad),
        rises=s.rises + (value > s.value),
        hit=s.hit | ~stands,
        hit_x=pick(stands, s.hit_x, x),
    )


def _check(s: _State, window: int) -> _State:
    halve = (s.rises <= RHO * window) | (~s.halved & (s.checked >= s.best))
    return s._replace(
        x=pick(halve, s.best_x, s.x),
        grad=pick(halve, s.best_grad, s.grad),
        size=pick(halve, s.size / 2, s.size),
        rises=torch.zeros_like(s.rises),
        checked=s.best,
        halved=halve,
    )
