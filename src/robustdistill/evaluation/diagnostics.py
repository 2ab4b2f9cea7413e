"""Does the attack work on this network? Looks, curves and rival attacks, and an alarm for each that says no."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from robustdistill.evaluation.alarms import Alarm
from robustdistill.evaluation.blackbox import noise, squares, transferred
from robustdistill.evaluation.comparisons import MORE_STARTS, WHITE_BOX, attack_alarms, curve_alarms
from robustdistill.evaluation.curves import MULTIPLES, STEPS, Point, curves
from robustdistill.evaluation.looks import blind, gradient_alarms, gradients, look_alarms, seen
from robustdistill.evaluation.suite import BATCH, MakeGenerator, judge
from robustdistill.evaluation.verdict import Verdict
from robustdistill.modes import seeded
from robustdistill.types import Attack

NOISES, SQUARES = 50, 200  # queries


def diagnose(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    verdicts: Mapping[str, Verdict],
    *,
    eps: float,
    generator: MakeGenerator,
    at_once: int = BATCH,
    name: str = "pgd",
    transfer: nn.Module | None = None,
    multiples: Sequence[float] = MULTIPLES,
    steps: Sequence[int] = STEPS,
) -> tuple[list[Point], list[Alarm]]:
    """The curves of `attack`, a PGD, on `network`, and the alarms of gradient masking.

    `verdicts`: those already there, by attack, on the same images at the same `eps`. What the gradient attacks among
    them broke counts as found, and "fgsm" is not run again. `transfer`: another network on the same device.
    `generator` is asked for `name` alone, at indices up to 9 N. The rest as for `judge` and `curves`.

    A network whose gradients are all zero, or one of them not finite, gets its alarms and no points: PGD has nothing to
    follow. Cost per image with the defaults at eps 0.2: 371 gradients and 304 forwards; 20 gradients of `transfer`.
    The network and torch's global generators are left as they were found.
    """
    common: dict[str, Any] = {"eps": eps, "at_once": at_once, "name": name}
    with seeded(0, next(network.parameters(), x).device):  # for a network that draws from them
        found = seen(network, x, y, gradients, generator=generator, **common)
        looked = [*gradient_alarms(found), *look_alarms(network, x, y, generator=generator, **common)]
        if blind(found):
            return [], looked
        varied: dict[str, Any] = {"multiples": multiples, "steps": steps}
        points = list(curves(network, x, y, attack, generator=generator, **common, **varied))
        left = {n: v.correct for n, v in verdicts.items() if n in WHITE_BOX}
        left["pgd"] = next(p.verdict.correct for p in points if p.curve == "eps" and p.verdict.eps == eps)
        for k, (rival, run) in enumerate(_rivals(attack, transfer).items(), start=1):
            if rival not in left:
                draws = _elsewhere(generator, k * len(x))
                left[rival] = judge(network, x, y, attack=run, generator=draws, **common).correct
    return points, [*looked, *curve_alarms(points), *attack_alarms(left)]


def _rivals(attack: Attack, transfer: nn.Module | None) -> dict[str, Attack]:
    one_step = {"steps": 1, "step": "eps", "start": "none"}
    return {
        "fgsm": replace(attack, params={**attack.params, **one_step}),
        "noise": Attack(noise, None, {"queries": NOISES}),
        "squares": Attack(squares, None, {"queries": SQUARES}),
        **dict.fromkeys(MORE_STARTS, attack),
        **({"transfer": transferred(transfer, attack)} if transfer else {}),
    }


def _elsewhere(generator: MakeGenerator, offset: int) -> MakeGenerator:
    # Other draws under the same name: a caller's generators may know the names of registered attacks only.
    return lambda name, index: generator(name, offset + index)
