"""What `explain` tells: labels and texts."""

import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustdistill.cli.dryrun import forwards
from robustdistill.cli.listing import summary
from robustdistill.registry import Registry, callable_of, params_model
from robustdistill.report.numbers import percent, radius
from robustdistill.resolve import DEFAULT_DATA, resolve
from robustdistill.spec import Node, RunSpec
from robustdistill.types import Attack, Dataset, DatasetAt, Method, Teacher

Pairs = Iterator[tuple[str, str]]


def method(name: str, registry: Registry) -> Pairs:
    """A method, or one variant of it: formulas, what is read, protocol, variants, source."""
    base, _, variant = name.partition("@")
    spec = resolve([{"method": name, "data": DEFAULT_DATA}], registry)
    found: Method = registry.get("method", base)
    yield "method", f"{name}: {found.summary}"
    yield from (("source", text) for text in [found.cite] if text)
    yield "from", registry.entry("method", base).origin
    for label, kind, node in (("ascends", "inner", spec.inner), ("descends", "outer", spec.outer)):
        yield "", ""
        yield label, f"{node.name}: {summary(kind, registry.get(kind, node.name))}"
        yield from (("", line) for line in parameters(kind, node, registry))
    yield "", ""
    yield from _reads(spec, registry)
    yield from _protocol(spec)
    yield "", ""
    yield from _variants(found, variant)
    yield from _several("notes", found.notes)


def _reads(spec: RunSpec, registry: Registry) -> Pairs:
    """By a dry step with the default student of the smallest data set; any teacher asked for is there."""
    from robustdistill import assemble

    dataset: Dataset = registry.dataset(spec.data.name, spec.data.dir)
    student = assemble.build_student(spec, dataset, registry)
    reads = assemble.reads_of(spec, student, dataset, registry)
    yield "teachers", ", ".join(reads.roles) or "none"
    yield "a step", forwards(reads.flat())
    if reads.terms:
        yield "terms", " + ".join(reads.terms)


def _protocol(spec: RunSpec) -> Pairs:
    attack = ", ".join(f"{k} {v}" for k, v in spec.attack.params.items())
    if spec.inner.name != "none":
        yield "attack", f"{spec.attack.name}: {attack}; the student's BatchNorm: {spec.attack_bn}"
    milestones = f" at {', '.join(map(str, spec.schedule.milestones))}" if spec.schedule.milestones else ""
    optim = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in spec.optim.model_dump().items())
    yield "training", f"{spec.epochs} epochs, batches of {spec.batch_size}; SGD: {optim}"
    yield "schedule", f"{spec.schedule.name}{milestones}"


def _variants(found: Method, chosen: str) -> Pairs:
    label = "variants"
    for name, variant in {"paper": None, **found.variants}.items():
        here = " (this one)" if name == (chosen or "paper") else ""
        changes = (
            ", ".join(_flat(variant.changes)) if variant else "the method as above" if here else "the method itself"
        )
        yield label, f"{name}{here}: {changes or 'changes nothing'}"
        yield from (("", f"- {note}") for note in (variant.notes if variant else ()))
        label = ""


def _flat(changes: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in changes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {list(value) if isinstance(value, tuple) else value}"


def unit(kind: str, name: str, registry: Registry) -> Pairs:
    """Anything but a method."""
    entry = registry.entry(kind, name)
    found = entry.unit
    yield _title(kind), f"{name}: {summary(kind, found)}"
    yield "from", entry.origin
    if isinstance(found, Teacher):
        yield from _teacher(name, found)
    elif isinstance(found, Dataset):
        yield from _dataset(found, registry.class_names(name))
    elif isinstance(found, DatasetAt):
        yield from _text(found.find)
    else:
        yield from _text(callable_of(found))
        given = dict(found.params) if isinstance(found, Attack) else dict(entry.params)
        yield from _several("parameters", parameters(kind, Node(name=name, **given), registry))
    if isinstance(found, Attack) and found.objective is not None:
        yield "ascends", f"{summary('inner', found.objective)} (in training: the method's inner objective)"


def _title(kind: str) -> str:
    return f"{kind} objective" if kind in ("inner", "outer") else kind


def _text(function: Any) -> Pairs:
    yield "", ""
    for line in (inspect.getdoc(function) or "").splitlines():
        yield "", line
    yield "", ""


def _teacher(name: str, found: Teacher) -> Pairs:
    numbers = {"clean": found.clean, **found.robust}
    told = ", ".join(f"{k} {percent(v)}" for k, v in numbers.items() if v is not None)
    at = f" at eps {radius(found.eps)}" if found.eps else ""
    yield "accuracy", f"{told} %{at}" if told else "not recorded"
    yield "weights", _weights(name, found)
    yield from _several("source", found.sources)
    labels = ("sha256", "preprocessing", "paper", "licence", "notes")
    yield from ((label, getattr(found, label)) for label in labels if getattr(found, label))


def _weights(name: str, found: Teacher) -> str:
    from robustdistill.zoo.place import place

    if found.path is None and not found.sources:
        return f"not included: bring the file, --teacher {name}@FILE"
    path = place(name, found)
    return str(path) if path.exists() else f"downloaded when a run or eval needs them, once, to {path}"


def _dataset(found: Dataset, classes: Sequence[str]) -> Pairs:
    yield "images", f"{found.channels} x {found.size} x {found.size}, classes: {', '.join(classes)}"
    yield "eps", str(found.eps)
    flip = ", horizontal flips" if found.augment.flip else ""
    yield "augmented", f"shifts by up to {found.augment.pad} pixels{flip}"
    yield "by default", f"student {found.student}, teacher {found.teacher or 'none'}"
    brought = "--data-dir; without it the images are downloaded, once" if found.downloads else "needed: --data-dir"
    yield "directory", brought if found.needs_dir else "none is needed"
    yield from (("licence", text) for text in [found.licence] if text)


def parameters(kind: str, node: Node, registry: Registry) -> list[str]:
    """Each parameter with its value, what it may be, and its default where the value is another."""
    fields = params_model(callable_of(registry.get(kind, node.name))).model_fields
    lines = []
    for name, field in fields.items():
        default = field.get_default()
        value = node.params.get(name, "needed" if field.is_required() else default)
        other = "" if field.is_required() or value == default else f"default {default}"
        told = ", ".join(t for t in (_range(field), other) if t)
        lines.append(f"{name} = {'none' if value is None else value}" + (f"   ({told})" if told else ""))
    return lines


def _range(field: Any) -> str:
    kinds = (field.annotation, *typing.get_args(field.annotation))  # a choice, or several with or without none
    if choices := [c for k in kinds if typing.get_origin(k) is typing.Literal for c in typing.get_args(k)]:
        return " | ".join(map(str, choices))
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{sign} {getattr(m, key)}" for m in field.metadata for key, sign in signs.items() if hasattr(m, key)]
    return ", ".join(bounds)


def _several(label: str, texts: typing.Iterable[str]) -> Pairs:
    for i, text in enumerate(texts):
        yield "" if i else label, text
