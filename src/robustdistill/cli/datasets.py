"""What `list datasets` shows: figures, sizes, and which data sets are on this disk."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustdistill.report.numbers import megabytes, radius
from robustdistill.report.tables import Table

if TYPE_CHECKING:
    from robustdistill.types import Dataset, DatasetAt, OnDisk

PARTS = ("train", "holdout", "test")
NOTES = (
    "here: on this disk, in a cache or in the package; a folder of yours is told by --data-dir",
    "MB: of the files here, else of the download",
)


def facts(unit: "Dataset | DatasetAt") -> dict[str, Any]:
    """All that is known of a data set as plain values; of one that is found by a path, nothing before that is given.

    `here` is the folder of its files on this disk, else None; `size` and `download` are in bytes.
    """
    from robustdistill.types import Dataset

    if not isinstance(unit, Dataset):
        return {"path": True}
    counts, here = unit.downloads or unit.images, _here(unit)
    return {
        "images": dict(zip(PARTS, counts, strict=True)) if counts else None,
        "image": [unit.channels, unit.size, unit.size],
        "classes": len(unit.classes),
        "eps": unit.eps,
        "student": unit.student,
        "teacher": unit.teacher or None,
        "licence": unit.licence,
        "download": unit.megabytes * 10**6 if unit.megabytes else None,
        "here": str(here.folder) if here else None,
        "size": sum(file.stat().st_size for file in here.files) if here else None,
    }


def _here(unit: "Dataset") -> "OnDisk | None":
    from robustdistill.errors import RobustDistillError

    try:
        found = unit.look(None) if unit.look else None
    except RobustDistillError:  # a cache that holds something else
        return None
    return found if found and all(file.is_file() for file in found.files) else None


def table(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row a data set."""
    return Table(("name", "image", "here", "classes", *PARTS, "eps", "MB"), tuple(map(_row, records)), words=3)


def below(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stands below the table: where those lie that are here, and what names mean that say little themselves."""
    lying = [f"{r['name']}: {r['here']}" for r in records if r.get("here")]
    ours = "robustdistill "
    told = [f"{r['name']}: {r['summary']}" for r in records if "image" not in r or not r["from"].startswith(ours)]
    return [*told, *lying, *NOTES]


def _row(r: Mapping[str, Any]) -> tuple[str, ...]:
    if "image" not in r:
        return (r["name"], *"--------")
    size = r["size"] or r["download"]
    counts = [f"{r['images'][part]:,}" if r["images"] else "-" for part in PARTS]
    return (
        r["name"],
        " x ".join(map(str, r["image"])),
        "yes" if r["here"] else "no",
        f"{r['classes']:,}",
        *counts,
        r["eps"] if isinstance(r["eps"], str) else radius(r["eps"]),
        megabytes(size, 2) if size else "-",
    )
