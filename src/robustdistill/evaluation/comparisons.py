"""Attacks against each other, image by image: the alarms that verdicts alone raise.

Of n images let the attack that ought to be weaker break b that the other leaves right, and the other c that it leaves
right. On a sound network b <= c up to noise; were the two alike, b - c would have mean 0 and variance b + c (McNemar
1947). So

    excess = (b - c - Z sqrt(b + c)) / n

is a lower bound of how much more the weaker attack breaks, and one above its tolerance raises an alarm. It takes ten
images at least (10 > 3 sqrt(10) > 9): a handful of images raises none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from robustdistill.evaluation.alarms import Alarm, alarm
from robustdistill.evaluation.curves import END, Point
from robustdistill.evaluation.verdict import Verdict, wilson

Z = 3.0  # standard errors: by chance one alarm in about 700 comparisons
# How much more the weaker attack may break on a sound network, as a share of the images:
LUCK = 0.003  # one step is now and then luckier than twenty
STRONGER = 0.002  # AutoAttack's own tolerance for what Square adds
STEPS_GAIN = 0.005  # what a converged attack still gains from five times the steps
STARTS_GAIN = 0.03  # the digits' sound teacher loses 5 points: at eps 0.2 the ball holds many local maxima

WHITE_BOX = ("fgsm", "pgd", "pgd-sat", "pgd-trades", "cw")
MORE_STARTS = ("start 2", "start 3", "start 4", "start 5")


def excess(weaker: Tensor, stronger: Tensor) -> float:
    """Lower bound of the share of images that `weaker` breaks beyond `stronger`, both `correct` `[N]` under it."""
    b, c = int((stronger & ~weaker).sum()), int((weaker & ~stronger).sum())
    return (b - c - Z * math.sqrt(b + c)) / len(weaker)


def curve_alarms(points: Sequence[Point]) -> Iterator[Alarm]:
    """The alarms of the curves' shape: a rise over eps, no fall to chance at 0.5, a fall where the steps end."""
    radius = sorted((p for p in points if p.curve == "eps"), key=lambda p: p.verdict.eps)
    yield from _rise([p.verdict for p in radius])
    yield from _end(radius[-1].verdict)
    by_steps = {p.steps: p.verdict.correct for p in points if p.curve == "steps"}
    own, most = radius[0].steps, max(by_steps)
    told = (f"{most} steps leave", f"{own} steps")
    yield from _beats("more-steps-gain", told, by_steps[most], by_steps[own], STEPS_GAIN)


def attack_alarms(left: Mapping[str, Tensor]) -> Iterator[Alarm]:
    """The alarms of attacks against PGD, and against all white-box attacks together.

    left: `correct` `[N]` under "pgd", "fgsm", MORE_STARTS of PGD, "noise", "squares", perhaps "transfer", and further
    attacks of WHITE_BOX.
    """
    pgd, white = left["pgd"], _all(left, (*WHITE_BOX, *MORE_STARTS))
    starts = f"{1 + len(MORE_STARTS)} starts leave", "one start"
    yield from _beats("fgsm-beats-pgd", ("fgsm leaves", "pgd"), left["fgsm"], pgd, LUCK)
    yield from _beats("noise-beats-pgd", ("noise and pgd leave", "pgd alone"), left["noise"] & pgd, pgd, STRONGER)
    yield from _beats("more-restarts-gain", starts, _all(left, ("pgd", *MORE_STARTS)), pgd, STARTS_GAIN)
    told = "random squares leave", "the white-box attacks"
    yield from _beats("black-box-beats-white-box", told, left["squares"], white, STRONGER)
    if "transfer" in left:
        told = "pgd on the other network leaves", "the white-box attacks"
        yield from _beats("transfer-beats-white-box", told, left["transfer"], white, STRONGER)


def _all(left: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([left[name] for name in names if name in left]).all(dim=0)


def _beats(name: str, told: tuple[str, str], weaker: Tensor, stronger: Tensor, tolerance: float) -> Iterator[Alarm]:
    if excess(weaker, stronger) > tolerance:
        share = [f"{float(correct.double().mean()):.1%}" for correct in (weaker, stronger)]
        yield alarm(name, f"{told[0]} {share[0]} of {len(weaker)} images right, {told[1]} {share[1]}")


def _rise(verdicts: Sequence[Verdict]) -> Iterator[Alarm]:
    rises = ((excess(low.correct, high.correct), low, high) for low, high in combinations(verdicts, 2))
    largest, low, high = max(rises, key=lambda rise: rise[0])
    if largest > STRONGER:
        told = [f"{v.accuracy:.1%} at eps {v.eps:.4g}" for v in (low, high)]
        yield alarm("not-monotone", f"the accuracy rises from {told[0]} to {told[1]}")


def _end(last: Verdict) -> Iterator[Alarm]:
    # A constant answer is right on the most frequent class.
    chance = float(last.labels.bincount().max()) / len(last.labels)
    if last.eps >= END and wilson(last.accuracy, len(last.correct), Z)[0] > chance:
        yield alarm("never-falls", f"at eps {last.eps:g} the accuracy is {last.accuracy:.1%} and chance {chance:.1%}")
