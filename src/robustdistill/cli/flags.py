"""The flags of `train` that decide a run, and the layer of a spec that they make."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from robustdistill.errors import UserError

ROLE = re.compile(r"([a-z][\w-]*)=(.+)", re.ASCII)

PLACES = {  # flag -> where it stands in a spec
    "method": "method",
    "inner": "inner.name",
    "outer": "outer.name",
    "with_": "with",
    "student": "student.name",
    "data": "data.name",
    "data_dir": "data.dir",
    "eps": "eps",
    "steps": "attack.steps",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "optim.lr",
    "seed": "seed",
    "device": "device",
    "mode": "mode",
}


def layer(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given flags (None: not given) as a layer of a spec."""
    made: dict[str, Any] = {}
    for flag, place in PLACES.items():
        if given.get(flag) is not None:
            *parents, leaf = place.split(".")
            node = made
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = given[flag]
    return made | ({"teachers": roles} if (roles := teachers(given.get("teacher") or ())) else {})


def teachers(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """`[ROLE=]NAME`, any number of them, as nodes by role; a role given twice is refused."""
    from robustdistill.logits import DEFAULT_ROLE

    nodes: dict[str, dict[str, str]] = {}
    for text in given:
        found = ROLE.fullmatch(text)
        role, name = (found[1], found[2]) if found else (DEFAULT_ROLE, text)
        if role in nodes:
            raise UserError(f"two teachers have the role {role!r}; give each its own: --teacher clean={name}")
        nodes[role] = {"name": name}
    return nodes


def seeds(text: str) -> list[int]:
    """The numbers of "0,1,2"; UserError for anything else."""
    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not parts or not all(re.fullmatch(r"\d+", p, re.ASCII) for p in parts):
        raise UserError(f"--seeds {text!r} is no list of seeds; write --seeds 0,1,2")
    if len(set(parts)) < len(parts):
        raise UserError(f"--seeds {text!r} names a seed twice")
    return [int(p) for p in parts]


def spelt(name: str) -> str:
    """A parameter's name as the flag that it is: "data_dir" -> "--data-dir"."""
    return "--" + name.strip("_").replace("_", "-")
