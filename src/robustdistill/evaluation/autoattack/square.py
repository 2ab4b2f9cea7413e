"""Square Attack (Andriushchenko et al. 2020): random squares of +-2 eps, kept where the margin falls. No gradients."""

import math
from functools import partial

import torch
from torch import Tensor

from robustdistill.evaluation.autoattack.losses import margin
from robustdistill.evaluation.autoattack.wave import Found, Wave, ball, draw, find_in_chunks, pick, stretches
from robustdistill.logits import Forward

P_INIT = 0.8
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(wave: Wave, *, queries: int = 5000) -> Found:
    """`queries` proposals after a start of vertical stripes; all images of a logical batch try the same square."""
    (channels, _, width), generators = wave.x.shape[1:], wave.generators()
    stripes = _colour(draw(generators, list(wave.sizes), (channels, 1, width), wave.x))
    draws = draw(generators, [queries] * len(wave.sizes), (2 + channels,), wave.x)
    run = partial(_search, wave.forward, draws.view(-1, queries, 2 + channels), eps=wave.eps)
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


def _search(
    forward: Forward, draws: Tensor, x: Tensor, y: Tensor, batch: Tensor, stripes: Tensor, *, eps: float
) -> Found:
    (low, high), (height, width) = ball(x, eps), x.shape[2:]
    x_adv = (x + eps * stripes).clamp(0, 1)
    least, row = margin(forward(x_adv), y), torch.arange(len(x), device=x.device)
    v, best = x_adv, least
    for stretch in stretches(draws.shape[1]):
        stands = (best > 0).nonzero()[:, 0]
        row, batch, y, low, high, v, best = (t[stands] for t in (row, batch, y, low, high, v, best))
        if len(row) == 0:
            break
        for change in 2 * eps * squares(draws, stretch, height, width):
            trial = (v + change[batch]).clamp(low, high)
            value = margin(forward(trial), y)
            better = (value < best) & (best > 0)
            best, v = torch.where(better, value, best), pick(better, trial, v)
        least[row], x_adv[row] = best, v
    return least <= 0, pick(least <= 0, x_adv, x)


def passes(classes: int, *, queries: int) -> tuple[int, int]:
    """Forwards and backwards for an image that stays right."""
    return queries + 1, 0
