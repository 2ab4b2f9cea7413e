"""How numbers are written: accuracies as percentages, several seeds as mean and standard deviation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values and their sample standard deviation (None for one value)."""

    mean: float
    std: float | None
    n: int


def mean_of(values: Sequence[float]) -> Mean:
    """mean = sum v / n, std = sqrt(sum (v - mean)^2 / (n - 1)); at least one value."""
    n, mean = len(values), math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    return Mean(mean, std, n)


def percent(fraction: float | None, digits: int = 2) -> str:
    """0.5308 as "53.08"; "-" for what is not known."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def interval(ends: Sequence[float]) -> str:
    """The lowest and the highest of a share: (0.366, 0.557) as "36.6 - 55.7"."""
    return " - ".join(percent(end, 1) for end in ends)


def radius(eps: float | None) -> str:
    """0.0313725 as "8/255", 0.031 and 0.2 as they are; "-" for what is not known."""
    if eps is None:
        return "-"
    steps = round(255 * eps)
    return f"{steps}/255" if 0 < steps <= 32 and abs(255 * eps - steps) < 1e-9 else f"{eps:.4g}"


def megabytes(size: int, digits: int = 1) -> str:
    """Bytes as MB; those of more than ten without digits behind the point."""
    return f"{size / 1e6:.{0 if size > 1e7 else digits}f}"


def difference(points: float | None, digits: int = 2) -> str:
    """A difference of two fractions in points: 0.0123 as "+1.23"."""
    return "-" if points is None else f"{100 * points:+.{digits}f}"


def spread(mean: Mean | None, digits: int = 2) -> str:
    """A mean of accuracies as "53.08 ± 0.21"; without the spread for one value."""
    if mean is None:
        return "-"
    return percent(mean.mean, digits) + ("" if mean.std is None else f" ± {percent(mean.std, digits)}")


def duration(seconds: float) -> str:
    """Seconds as "7.3 s", "4:05 min" or "2:10:00 h"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def means(records: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    """`mean_of` for each key that every record has."""
    shared = [key for key in records[0] if all(key in r for r in records)] if records else []
    return {key: mean_of([r[key] for r in records]) for key in shared}
