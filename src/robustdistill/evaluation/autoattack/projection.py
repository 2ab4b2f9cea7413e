"""The L-inf projection onto a hyperplane inside the box [0, 1]^n, without sorting."""

import torch
from torch import Tensor

ROUNDS = 24


def to_hyperplane(points: Tensor, normal: Tensor, gap: Tensor) -> Tensor:
    """The least d in the L-inf norm such that <w, t + d> = b and t + d in [0, 1]; the farthest d where none exists.

    Each pixel moves against gap * w by min(lam, its room to the box), where

        F(lam) = sum_i |w_i| min(lam, room_i) = |gap|,   gap = <w, t> - b.

    F is concave and piecewise linear, so Newton's method from lam = 0 rises to the root and is exact once it is on
    the root's piece: after 2 to 5 rounds in practice. (A CPU stops there; from a GPU nothing is read back.)

    Args: points t `[..., B, n]` in [0, 1]; normal w `[B, n]`; gap `[..., B]`. Returns d `[..., B, n]`.
    """
    downhill = -gap.sign()[..., None] * normal.sign()
    weight = normal.abs()
    room = torch.where(downhill < 0, points, 1 - points)
    need, lam = gap.abs()[..., None], torch.zeros_like(gap)[..., None]
    for _ in range(ROUNDS):
        free = room > lam
        slope = (weight * free).sum(-1, keepdim=True)
        spent = (weight * room.masked_fill(free, 0)).sum(-1, keepdim=True)
        raised = torch.where(slope > 0, (need - spent) / slope, 1.0).maximum(lam).clamp(max=1)
        if _at_rest(raised, lam):
            break
        lam = raised
    return downhill * lam.minimum(room)


def _at_rest(new: Tensor, old: Tensor) -> bool:
    return old.device.type == "cpu" and torch.equal(new, old)
