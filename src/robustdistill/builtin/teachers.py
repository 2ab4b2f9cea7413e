"""Teachers by name: two for the embedded digits, trained by this project's own specs, and the paper's two."""

import json
from pathlib import Path

from robustdistill.hookspecs import hookimpl
from robustdistill.types import Teacher

ASSETS = Path(__file__).parent / "assets"

WRN_34_10 = Teacher(
    "wrn-34-10",
    None,
    "cifar10",
    clean=0.8492,
    robust={"aa": 0.5308},
    eps=0.031,
    notes="TRADES' CIFAR-10 network (RobustBench: Zhang2019Theoretically); bring its file: --teacher wrn-34-10@FILE",
)

WRN_70_16_SWISH = Teacher(
    "wrn-70-16-swish",
    None,
    "cifar100",
    clean=0.6086,
    robust={"aa": 0.3003},
    eps=8 / 255,
    notes="DeepMind's CIFAR-100 network without extra data (RobustBench: Gowal2020Uncovering); bring its file: "
    "--teacher wrn-70-16-swish@FILE",
)


def embedded() -> dict[str, Teacher]:
    """The teachers whose weights come with the package; `teachers.json` records what was measured."""
    records = json.loads((ASSETS / "teachers.json").read_text(encoding="utf-8"))
    return {name: Teacher(path=ASSETS / f"{name}.safetensors", **record) for name, record in records.items()}


@hookimpl
def register_teachers() -> dict[str, Teacher]:
    return {**embedded(), "wrn-34-10": WRN_34_10, "wrn-70-16-swish": WRN_70_16_SWISH}
