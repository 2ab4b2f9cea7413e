"""What a name that nobody registered may mean: a package of plugins/ that is not in use, a folder, another word."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHIPPED = {  # what the packages of plugins/ register: name -> package, kinds
    "absld": ("absld", ("method", "inner", "outer")),
    "adaad": ("adaad", ("method", "outer")),
    "adaiad": ("adaad", ("method", "outer")),
    "awp-official": ("awp", ("modifier",)),
    "blend": ("example", ("method", "outer")),
    "fair": ("fair", ("modifier",)),
    "igdm": ("igdm", ("modifier",)),
    "kl-teacher-linear": ("saad", ("inner",)),
    "mart": ("mart", ("method", "outer")),
    "saad": ("saad", ("method", "outer")),
}


def hint(kind: str, name: str, units: Mapping[str, Any]) -> str:
    """The part of a sentence on an unknown name that says what it means, if that is known; else empty."""
    if name.lower() in SHIPPED and name.lower() not in units:
        return _package(kind, name.lower())
    if kind == "dataset" and (prefix := _own(Path(name))):
        return f", which is {'a folder' if Path(name).is_dir() else 'a file'}: write {prefix}:{name}."
    attacks = units.items() if kind == "attack" else ()
    called = next((known for known, unit in attacks if _first_word(unit) == name.lower()), "")
    return f"; did you mean {called!r}?" if called else ""


def _package(kind: str, name: str) -> str:
    package, kinds = SHIPPED[name]
    what = kind if kind in kinds else kinds[0]
    where = f"docs/plugins/{package}.md; from a clone: pip install plugins/robustdistill-{package}"
    return f"; the {what} {name!r} is in the package robustdistill-{package}, which is not in use ({where})."


def _own(path: Path) -> str:
    """How a data set of the user's is named by its path."""
    if path.is_dir():
        return "parquet" if any(path.glob("*.parquet")) else "imagefolder"
    return "npz" if path.suffix == ".npz" and path.is_file() else ""


def _first_word(unit: Any) -> str:
    """What a summary begins with: "AutoAttack, standard: ..." says what aa is."""
    found = re.match(r"[\w-]+", str(getattr(unit, "summary", "")))
    return found[0].lower() if found else ""
