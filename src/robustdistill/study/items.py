"""The runs of a study: every combination of the places on its axes, each a complete spec with a stable name."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from robustdistill.errors import UserError
from robustdistill.judging import chosen_attacks
from robustdistill.registry import Registry
from robustdistill.resolve import joined, resolve
from robustdistill.spec import RunSpec, set_layer
from robustdistill.study.plan import SEED, Study, Value, label

TARGET = "target"  # an axis of it makes a study of networks that are there: they are judged, nothing is trained


@dataclass(frozen=True)
class Item:
    """One piece of work: a run to train and judge, or a `target` to judge with the data of `layer`.

    `places` holds its label on every axis. `id` names its folder, and depends on nothing but what decides its numbers:
    where two combinations, or two studies, mean the same run, they share it.
    """

    id: str
    places: Mapping[str, str]
    spec: RunSpec | None = None
    target: str = ""
    data: Mapping[str, Any] | None = None

    @property
    def seed(self) -> int:
        """The seed of its run, or of the attacks on its target."""
        return self.spec.seed if self.spec else int(self.places.get(SEED, 0))


def items(study: Study, registry: Registry) -> list[Item]:
    """All runs of a study, in the order of its axes, the last one fastest. UserError for one that cannot be, or that
    could not be judged once it is over.
    """
    try:
        chosen_attacks(study.judge.attacks, registry)
    except UserError as error:
        raise UserError(f"study {study.called!r}, judge.attacks: {error}") from None
    axes = [[(axis, place) for place in places] for axis, places in study.axes.items()]
    made = [_item(study, dict(point), registry) for point in itertools.product(*axes)]
    return [item for item in made if not _skipped(study, item)]


def distinct(found: list[Item]) -> list[Item]:
    """The same without those that share the run of one before."""
    first: dict[str, Item] = {}
    for item in found:
        first.setdefault(item.id, item)
    return list(first.values())


def _skipped(study: Study, item: Item) -> bool:
    return any(all(item.places[axis] == str(place) for axis, place in entry.items()) for entry in study.skip)


def _item(study: Study, point: Mapping[str, Value], registry: Registry) -> Item:
    places = {axis: label(place, axis) for axis, place in point.items()}
    layer: dict[str, Any] = {}
    for axis, place in point.items():
        layer = joined(layer, _layer(axis, place))
    try:
        if TARGET in layer:
            return _judged(places, joined(study.base, layer), registry)
        spec = resolve([study.base, layer], registry)
    except UserError as error:
        where = ", ".join(f"{axis} = {text}" for axis, text in places.items())
        raise UserError(f"study {study.called!r}, {where}: {error}") from None
    name = "-".join((spec.method, spec.student.name, *_teacher(spec), f"s{spec.seed}"))
    return Item(f"{_slug(name)}-{spec.hash()[:8]}", places, spec)


def _layer(axis: str, place: Value) -> dict[str, Any]:
    """What a place says of the spec: the key that the axis is named after, or the table itself without its label."""
    if isinstance(place, Mapping):
        return {key: value for key, value in place.items() if key != "label"}
    if isinstance(place, str):
        return _nested(axis.split("."), place)
    return set_layer([f"{axis}={json.dumps(place)}"])


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if path[1:] else value}


def _judged(places: Mapping[str, str], layer: Mapping[str, Any], registry: Registry) -> Item:
    """A network that is there: a registered name, a file, ARCH@FILE, a run; `data` and `data_dir` as in `eval`."""
    known = {TARGET, "data", SEED}
    if extra := sorted(set(layer) - known):
        raise UserError(f"a target is judged as it is, and takes no {extra[0]}; it takes {', '.join(sorted(known))}")
    target, data = str(layer[TARGET]), dict(layer.get("data", {}))
    facts = json.dumps([target, data.get("name"), layer.get(SEED, 0)])
    return Item(f"{_slug(target)}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}", places, None, target, data)


def _teacher(spec: RunSpec) -> Iterator[str]:
    """What it is called for short: the architecture of ARCH@FILE, the last part of a path, the beginning of it."""
    yield from (PurePath(node.name.partition("@")[0]).name[:24] for node in list(spec.teachers.values())[:1])


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60]
