"""The contract of a method: its names exist, its recipe and variants make specs, and two steps of it are finite."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustdistill import assemble
from robustdistill.engine.dryrun import Reads
from robustdistill.events import Finished, Stepped
from robustdistill.resolve import method_layer, resolve
from robustdistill.run import train
from robustdistill.spec import Node, RunSpec
from robustdistill.testing.checks import Check, DoesNotApply, hold
from robustdistill.testing.problem import Small
from robustdistill.testing.registered import Registered
from robustdistill.types import Method

TRIAL: Mapping[str, Any] = {
    "data": "digits",
    "student": {"name": "digits-net", "width": 4},
    "limit_batches": 2,
    "batch_size": 16,
    "select": {"attack": "fgsm", "n": 16},
    "device": "cpu",
    "mode": "eager",
}


@dataclass(frozen=True)
class MethodCase(Registered):
    """A method to check, by the name that it has in a registry."""

    @property
    def method(self) -> Method:
        """The record itself."""
        method: Method = self.registry.get("method", self.name)
        return method

    def readings(self) -> Iterator[str]:
        """The method and each of its variants, as a user names them."""
        yield self.name
        yield from (f"{self.name}@{variant}" for variant in self.method.variants)

    def spec(self, reading: str) -> RunSpec:
        """The spec of two small steps on the digits."""
        spec = resolve([{"method": reading, **TRIAL}], self.registry)
        steps = {"steps": 2} if "steps" in spec.attack.params else {}
        return spec.model_copy(update={"attack": Node(name=spec.attack.name, **{**spec.attack.params, **steps})})

    def reads(self, spec: RunSpec) -> Reads:
        """What a step of it reads, by a dry step."""
        dataset = self.registry.get("dataset", spec.data.name)
        student = assemble.build_student(spec, dataset, self.registry)
        return assemble.reads_of(spec, student, dataset, self.registry)


def names(case: MethodCase) -> None:
    """Names inner and outer objectives that exist, with parameters that they have."""
    for kind in ("inner", "outer"):
        name, params = getattr(case.method, kind), getattr(case.method, f"{kind}_params")
        try:
            case.registry.params(kind, name, params, f"{case.what}.{kind}")
        except Exception as error:
            raise AssertionError(f"{case.what} names the {kind} objective {name!r}: {error}") from None


def summary(case: MethodCase) -> None:
    """Has a summary: `list` and `explain` show it."""
    hold(case.method.summary, f"{case.what} has no summary; say in a line what it does: Method(..., summary=...)")


def recipe(case: MethodCase) -> None:
    """Makes a complete spec: every value of its recipe is one that a run takes, and the schedule fits its epochs."""
    try:
        spec = resolve([{"method": case.name}], case.registry)
    except Exception as error:
        raise AssertionError(f"{case.what} makes no spec: {error}") from None
    late = [m for m in case.method.recipe.milestones if m >= spec.epochs]
    hold(not late, f"the learning rate of {case.what} never drops at {late}: the recipe ends at {spec.epochs}")


def variants(case: MethodCase) -> None:
    """Each variant makes a spec of its own, and says in a sentence how it differs."""
    if not case.method.variants:
        raise DoesNotApply("it has no variants")
    for name, variant in case.method.variants.items():
        reading = f"{case.name}@{name}"
        try:
            method_layer(reading, case.registry)
            resolve([{"method": reading}], case.registry)
        except Exception as error:
            raise AssertionError(f"{reading} makes no spec: {error}") from None
        hold(variant.notes, f"{reading} does not say how it differs; give Variant(changes, notes) a sentence")


def meta(case: MethodCase) -> None:
    """A step of it and of each variant passes on device meta."""
    for reading in case.readings():
        try:
            case.reads(case.spec(reading))
        except Exception as error:
            raise AssertionError(f"{reading}: {error}") from error


def trains(case: MethodCase) -> None:
    """Two steps on the digits, of it and of each variant, give finite losses and a result."""
    for reading in case.readings():
        spec = case.spec(reading)
        roles = case.reads(spec).roles
        teachers: dict[str, nn.Module] = {role: Small(1 + i) for i, role in enumerate(roles)}
        try:
            *events, end = train(spec, teacher=teachers or None, registry=case.registry)
        except Exception as error:
            raise AssertionError(f"{reading} does not train: {error}") from error
        losses = [e.loss for e in events if isinstance(e, Stepped)]
        hold(losses and all(map(math.isfinite, losses)), f"the losses of {reading} are {losses}")
        hold(isinstance(end, Finished), f"{reading} ends with {end}")


METHOD_CHECKS: tuple[Check[MethodCase], ...] = (names, summary, recipe, variants, meta, trains)
