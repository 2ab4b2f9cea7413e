"""FAB-T (Croce & Hein 2020, ICML: minimally distorted examples): steps onto the linearised decision boundary."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from robustdistill.evaluation.autoattack.losses import gradient, lead, runners_up
from robustdistill.evaluation.autoattack.projection import to_hyperplane
from robustdistill.evaluation.autoattack.wave import Found, Wave, in_chunks, pick, right, stretches
from robustdistill.logits import Forward

ALPHA, ETA, BETA = 0.1, 1.05, 0.9


def fab_t(wave: Wave, *, steps: int = 100, targets: int = 9) -> Found:
    """FAB towards each of the likeliest wrong classes; broken is what comes as near as eps.

    It draws no random numbers and images do not meet, so all pairs of image and target run side by side, `physical`
    of them at a time, and an image leaves with all its targets.
    """
    chosen = runners_up(in_chunks(wave.physical, wave.forward, wave.x), targets).T
    image = torch.arange(len(wave.x), device=wave.x.device).repeat(len(chosen))
    broken, x_adv = torch.zeros_like(wave.y, dtype=torch.bool), wave.x.clone()
    for rows, target in zip(
        torch.split(image, wave.physical), torch.split(chosen.flatten(), wave.physical), strict=True
    ):
        left = (~broken[rows]).nonzero()[:, 0]
        if len(left):
            _pairs(wave, rows[left], target[left], steps, broken, x_adv)
    return broken, x_adv


class _State(NamedTuple):
    """Each tensor a row a pair of image and target; `image` is the image's place in the wave."""

    image: Tensor
    y: Tensor
    target: Tensor
    x0: Tensor
    x: Tensor
    hit: Tensor
    hit_x: Tensor


def _pairs(wave: Wave, image: Tensor, target: Tensor, steps: int, broken: Tensor, x_adv: Tensor) -> None:
    """Runs these pairs and writes what they find into `broken` and `x_adv`."""
    x0 = wave.x[image]
    s = _State(image, wave.y[image], target, x0, x0, torch.zeros_like(image, dtype=torch.bool), x0)
    step = partial(_step, wave.forward, wave.eps)
    for stretch in stretches(steps):
        s = wave.loop.advance(step, s, len(stretch))
        broken[s.image[s.hit]] = True
        rows = _one_of_each(s.image, s.hit, len(broken))
        x_adv[s.image[rows]] = s.hit_x[rows]
        stands = (~broken[s.image]).nonzero()[:, 0]
        if len(stands) == 0:
            return
        s = _State._make(t[stands] for t in s)


def _one_of_each(image: Tensor, hit: Tensor, images: int) -> Tensor:
    """The last row with a hit of each image that has one: of two written to one place a GPU may leave a mixture."""
    rows = hit.nonzero()[:, 0]
    last = rows.new_full((images,), -1).scatter_reduce(0, image[rows], rows, "amax")
    return last[last >= 0]


def _step(forward: Forward, eps: float, s: _State) -> _State:
    """One step from x and from x0 onto the boundary's tangent at x, averaged; what crosses the boundary goes back.

    x <- clip((1 - a) (x + 1.05 d) + a (x0 + 1.05 d0)),  a = min(0.1, |d| / (|d| + |d0|))
    x <- x0 + 0.9 (x - x0)  where x is misclassified
    """
    _, value, grad = gradient(forward, lead, s.x, s.y, s.target)
    x0, x, w = s.x0.flatten(1), s.x.flatten(1), grad.flatten(1)
    gaps = torch.stack([value, value + (w * (x0 - x)).sum(dim=1)])
    d, d0 = to_hyperplane(torch.stack([x, x0]), w, gaps)
    size, size0 = (v.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) for v in (d, d0))
    a = (size / (size + size0)).clamp(max=ALPHA)
    x = ((x + ETA * d) * (1 - a) + (x0 + ETA * d0) * a).clamp(0, 1)
    v = x.view_as(s.x)
    wrong = ~right(forward(v), s.y)
    hit = wrong & ((x - x0).abs().amax(dim=1) <= eps)
    return s._replace(x=pick(wrong, s.x0 + (v - s.x0) * BETA, v), hit=s.hit | hit, hit_x=pick(hit, v, s.hit_x))


def passes(classes: int, *, steps: int, targets: int) -> tuple[int, int]:
    """Forwards and backwards for an image that stays right."""
    n = min(targets, classes - 1) * steps
    return 2 * n + 1, n
