"""Teachers by name: two for the embedded digits, trained by this project's own specs, and published ones for CIFAR."""

import json
from pathlib import Path

from robustdistill.builtin.published import TEACHERS
from robustdistill.hookspecs import hookimpl
from robustdistill.types import Teacher

ASSETS = Path(__file__).parent / "assets"


def embedded() -> dict[str, Teacher]:
    """The teachers whose weights come with the package; `teachers.json` records what was measured."""
    records = json.loads((ASSETS / "teachers.json").read_text(encoding="utf-8"))
    return {name: Teacher(path=ASSETS / f"{name}.safetensors", **record) for name, record in records.items()}


@hookimpl
def register_teachers() -> dict[str, Teacher]:
    return {**embedded(), **TEACHERS}
