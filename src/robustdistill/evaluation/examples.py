"""A handful of images before and after an attack, for the eye."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.evaluation.looks import logits, seen
from robustdistill.evaluation.suite import BATCH, MakeGenerator, judge
from robustdistill.logits import Logits
from robustdistill.types import Attack, Objective


def examples(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    eps: float,
    generator: MakeGenerator,
    k: int = 10,
    name: str = "pgd",
    at_once: int = BATCH,
) -> dict[str, Tensor]:
    """`k` images, as attacked, with what the network says of them. Args as `judge`, whose checks apply.

    The first images that the network gets right, one of each class before a second of any; where it gets fewer than
    `k` right, wrong ones fill up. Returns, on the CPU: `x`, `x_adv` `[k, C, H, W]` in [0, 1], `y` `[k]`, `logits`,
    `logits_adv` `[k, classes]`. Cost: 3 forwards for each of `x`; the attack for `k` of them.
    """
    common: dict[str, Any] = {"eps": eps, "generator": generator, "name": name, "at_once": at_once}
    natural = seen(network, x, y, logits, **common)
    chosen = choose(natural.argmax(dim=1) == y.cpu(), y.cpu(), k)
    few, labels = x[chosen.to(x.device)], y[chosen.to(y.device)]
    x_adv = attacked_images(network, few, labels, attack, **common)
    return {
        "x": few.cpu() / 255 if few.dtype == torch.uint8 else few.cpu(),
        "x_adv": x_adv,
        "y": labels.cpu(),
        "logits": natural[chosen],
        "logits_adv": seen(network, x_adv, labels, logits, **common),
    }


def choose(right: Tensor, y: Tensor, k: int) -> Tensor:
    """Indices of at most `k` examples: those that are right first, of different classes first, then in order."""
    places: dict[tuple[int, bool], int] = {}
    keys = []
    for i, (label, good) in enumerate(zip(y.tolist(), right.tolist(), strict=True)):
        nth = places[label, good] = places.get((label, good), -1) + 1
        keys.append((not good, nth, i))
    return torch.tensor([i for _, _, i in sorted(keys)[:k]])


def attacked_images(network: nn.Module, x: Tensor, y: Tensor, attack: Attack, **common: Any) -> Tensor:
    """x' of each image, `[N, C, H, W]` on the CPU, made under `judge` (whose arguments these are) and checked by it."""
    parts: list[Tensor] = []

    def kept(z: Logits, objective: Objective, /, **params: Any) -> Tensor:
        parts.append(attack.run(z, objective, **params))
        return parts[-1]

    judge(network, x, y, attack=replace(attack, run=kept), **common)
    return torch.cat(parts).cpu()
