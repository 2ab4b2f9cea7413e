"""What a run will cost, before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from robustdistill.evaluation.autoattack.standard import CLEAN, STANDARD, Part


@dataclass(frozen=True)
class Cost:
    """Passes of single images; `flop` is None where the cost of a forward is not known."""

    forwards: int
    backwards: int
    flop: float | None


def estimate(
    n: int,
    robust: float,
    *,
    classes: int = 10,
    attacks: Sequence[Part] = STANDARD,
    forward_flop: float | None = None,
) -> Cost:
    """Passes for `n` images of which the fraction `robust` stands to the end: a lower bound, mostly a close one.

    Each standing image costs 7,814 forwards and 1,910 backwards (standard, ten classes); those that break, mostly
    within a few steps of APGD-CE, are counted by their clean forward alone. A backward to the input, as costly as
    a forward, is all that an attack needs: flop = forward_flop * (forwards + backwards).
    """
    standing = round(n * robust)
    passes = [part.passes(classes, **part.params) for part in attacks]
    forwards = n * CLEAN.passes(classes)[0] + standing * sum(f for f, _ in passes)
    backwards = standing * sum(b for _, b in passes)
    return Cost(forwards, backwards, forward_flop * (forwards + backwards) if forward_flop is not None else None)
