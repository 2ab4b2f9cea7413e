"""Square Attack (Andriushchenko et al. 2020): random squares of +-2 eps, kept where the margin falls. No gradients."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from robustdistill.evaluation.autoattack.losses import margin
from robustdistill.evaluation.autoattack.replay import Loop
from robustdistill.evaluation.autoattack.wave import Found, Wave, ball, draw, find_in_chunks, pick, stretches
from robustdistill.logits import Forward

P_INIT = 0.8
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(wave: Wave, *, queries: int = 5000) -> Found:
    """`queries` proposals after a start of vertical stripes; all images of a logical batch try the same square."""
    (channels, _, width), generators = wave.x.shape[1:], wave.generators()
    stripes = _colour(draw(generators, list(wave.sizes), (channels, 1, width), wave.x))
    draws = draw(generators, [queries] * len(wave.sizes), (2 + channels,), wave.x)
    run = partial(_search, wave.forward, draws.view(-1, queries, 2 + channels), eps=wave.eps, loop=wave.loop)
    return find_in_chunks(wave.physical, run, wave.x, wave.y, wave.batch(), stripes)


def side(step: int, height: int, width: int) -> int:
    """The square's side at a step: sqrt(p) of the image's; p = 0.8 and halves after steps 10, 50, 200, ..."""
    p = P_INIT / 2 ** sum(step > last for last in HALVINGS)
    return min(max(round(math.sqrt(p * height * width)), 1), height, width)


def squares(draws: Tensor, steps: range, height: int, width: int) -> Tensor:
    """The proposals of some steps in units of the side's colour: draws `[U, T, 2 + C]` -> `[T, U, C, H, W]`.

    A row of draws is (top, left, sign of each channel), uniform in [0, 1).
    """
    now = draws[:, steps.start : steps.stop].transpose(0, 1)
    sides = torch.tensor([side(i, height, width) for i in steps], device=draws.device)[:, None]
    inside = []
    for place, length in ((now[..., 0], height), (now[..., 1], width)):
        first = ((length - sides) * place).long()[..., None]
        pixel = torch.arange(length, device=draws.device)
        inside.append((pixel >= first) & (pixel < first + sides[..., None]))
    rows, columns = inside[0][..., None, :, None], inside[1][..., None, None, :]
    return _colour(now[..., 2:, None, None]) * (rows & columns)


def _colour(uniform: Tensor) -> Tensor:
    return (2 * uniform - 1).sign()


class _State(NamedTuple):
    """Each tensor a row an image; `row` is the image's place in the chunk, `batch` its logical batch."""

    row: Tensor
    batch: Tensor
    y: Tensor
    low: Tensor
    high: Tensor
    x: Tensor
    margin: Tensor  # at x, the least so far
    tried: Tensor  # the margin of the last proposal


def _search(
    forward: Forward, draws: Tensor, x: Tensor, y: Tensor, batch: Tensor, stripes: Tensor, *, eps: float, loop: Loop
) -> Found:
    x_adv = (x + eps * stripes).clamp(0, 1)
    least, row = margin(forward(x_adv), y), torch.arange(len(x), device=x.device)
    s, step = _State(row, batch, y, *ball(x, eps), x_adv, least, least), partial(_step, forward)
    for stretch in stretches(draws.shape[1]):
        stands = (s.margin > 0).nonzero()[:, 0]
        if len(stands) == 0:
            break
        s = _State._make(t[stands] for t in s)
        s = loop.advance(step, s, len(stretch), 2 * eps * squares(draws, stretch, *x.shape[2:]))
        least[s.row], x_adv[s.row] = s.margin, s.x
    return least <= 0, pick(least <= 0, x_adv, x)


def _step(forward: Forward, s: _State, change: Tensor) -> _State:
    """Tries x + the change `[U, C, H, W]` of each image's batch; keeps it where the margin falls."""
    trial = (s.x + change[s.batch]).clamp(s.low, s.high)
    value = margin(forward(trial), s.y)
    better = (value < s.margin) & (s.margin > 0)
    return s._replace(x=pick(better, trial, s.x), margin=torch.where(better, value, s.margin), tried=value)


def passes(classes: int, *, queries: int) -> tuple[int, int]:
    """Forwards and backwards for an image that stays right."""
    return queries + 1, 0
