"""What a run is held against: its teacher's recorded accuracies, and a paper's."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from robustdistill.report.published import Published, published
from robustdistill.spec import RunSpec

if TYPE_CHECKING:
    from robustdistill.registry import Registry


@dataclass(frozen=True)
class References:
    """The teacher's name and its accuracies in [0, 1] by attack, as far as they are on record; a paper's row."""

    teacher: str = ""
    accuracies: dict[str, float] = field(default_factory=dict)
    paper: Published | None = None


def references(spec: RunSpec, registry: "Registry") -> References:
    """The teacher counts where it is a registered one for the run's data set, its robust accuracies where they were
    measured at the run's radius. A file (`NAME@FILE`) is known by its name only: nothing is on record of it.
    """
    name = _teacher(spec)
    known = registry.units("teacher").get(name)
    if known is None or known.dataset != spec.data.name:
        return References(name, {}, _paper(spec))
    same = known.eps is not None and math.isclose(known.eps, spec.eps, rel_tol=1e-6)
    clean = {} if known.clean is None else {"clean": known.clean}
    return References(name, {**clean, **(known.robust if same else {})}, _paper(spec))


def _teacher(spec: RunSpec) -> str:
    from robustdistill.logits import DEFAULT_ROLE

    node = spec.teachers.get(DEFAULT_ROLE)
    return node.name if node else ""


def _paper(spec: RunSpec) -> Published | None:
    if spec.modifiers:
        return None
    alpha = {"alpha": spec.outer.params["alpha"]} if "alpha" in spec.outer.params else {}
    return published(
        {
            "method": spec.method.partition("@")[0],
            "data": spec.data.name,
            "student": spec.student.name,
            "teacher": _teacher(spec).partition("@")[0],
            "inner": spec.inner.name,
            "outer": spec.outer.name,
            "eps": spec.eps,
            "epochs": spec.epochs,
            **alpha,
        }
    )
