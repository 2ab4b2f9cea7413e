"""What a paper reports for the same data set, student, teacher and method: the numbers are in `published.toml`."""

import functools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Published:
    """A row of a paper: where it stands, how it was made, and its accuracies in [0, 1] by attack."""

    source: str
    protocol: str
    accuracies: Mapping[str, float]


def published(facts: Mapping[str, Any]) -> Published | None:
    """The row for a run, None when there is none.

    `facts`: method (without its variant), data, student, teacher ("" for none), inner, outer, eps, epochs, and alpha
    where the outer objective has one. Where several rows fit, that of the most conditions counts.
    """
    content = _content()
    if abs(facts["eps"] - float(Fraction(content["eps"]))) > 1e-9:
        return None
    fitting = [(len(where), found) for where, found in _rows(content, facts["method"]) if _fits(where, facts)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _rows(content: Mapping[str, Any], method: str) -> Iterator[tuple[Mapping[str, Any], Published]]:
    """Each row of a method with its conditions; what a method says of itself wins over the table's teacher."""
    own = content["methods"].get(method, {})
    for table in content["table"]:
        if method in table["rows"]:
            inner = {k: v for k, v in table["where"].items() if k in ("inner", "alpha")}
            accuracies = zip(table["attacks"], table["rows"][method], strict=False)  # MTARD has no AutoAttack
            source = f"{content['source']}, {table['name']}"
            yield (
                {**table["where"], **own, **inner},
                Published(source, content["protocol"], {a: percent / 100 for a, percent in accuracies}),
            )


def _fits(where: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    return all(facts.get(key) == value for key, value in where.items())


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))
