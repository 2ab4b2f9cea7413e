"""What `list teachers` shows: figures, sizes, licences, and which files are on this disk."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustdistill.report.numbers import megabytes, percent, radius
from robustdistill.report.tables import Table

if TYPE_CHECKING:
    from robustdistill.registry import Registry
    from robustdistill.types import Teacher


NOTES = (
    "AA: AutoAttack, in % as published for eps. here: on this disk. ~: of the parameters; the file's size is not known",
    "The other names (RobustBench's), sources, papers: robustdistill explain NAME",
)


def facts(name: str, teacher: "Teacher", registry: "Registry") -> dict[str, Any]:
    """All that is known of a teacher as plain values. `here` is its file where that is on this disk, else None;
    `parameters` are those of the architecture, None where it is not installed.
    """
    from robustdistill.store.plain import plain
    from robustdistill.zoo.place import place

    file = place(name, teacher) if teacher.path or teacher.sources else None
    here = file if file and file.exists() else None
    size = here.stat().st_size if here else teacher.size
    return {
        "names": list(teacher.names),
        "architecture": teacher.model,
        "parameters": _parameters(teacher, registry),
        "here": str(here) if here else None,
        "size": size,
        **{k: v for k, v in plain(teacher).items() if k not in ("model", "path", "names", "size")},
    }


def _parameters(teacher: "Teacher", registry: "Registry") -> int | None:
    from robustdistill.assemble import shape_of
    from robustdistill.errors import RobustDistillError
    from robustdistill.spec import Node

    try:
        dataset = registry.dataset(teacher.dataset)
        network = shape_of(teacher.model, teacher.params, Node(name=teacher.model), dataset, registry)
    except RobustDistillError:
        return None
    return sum(p.numel() for p in network.parameters())


def table(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row a teacher; a size with ~ is that of its parameters, where the file's is not known."""
    head = ("name", "network", "data", "licence", "here", "clean", "AA", "eps", "MB")
    return Table(head, tuple(map(_row, records)), words=5)


def _row(r: Mapping[str, Any]) -> tuple[str, ...]:
    if "architecture" not in r:
        return (r["name"], "clash", *"-------")
    guess = f"~{4 * r['parameters'] / 1e6:.0f}" if r["parameters"] else "-"
    return (
        r["name"],
        r["architecture"],
        r["dataset"],
        re.sub(r"[ -]\d.*", "", r["licence"]) or "-",
        "yes" if r["here"] else "no",
        percent(r["clean"]),
        percent(r["robust"].get("aa")),
        radius(r["eps"]),
        megabytes(r["size"]) if r["size"] else guess,
    )
