"""A run's directory, and what lies beside it, as the contents of a report."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from robustdistill import records
from robustdistill.cli import outcomes
from robustdistill.cli.folders import runs_in
from robustdistill.cli.references import references
from robustdistill.cli.results import CHECKPOINTS, result_table
from robustdistill.errors import DamagedFile, RobustDistillError
from robustdistill.report.contents import About, Contents, Point, read_examples
from robustdistill.spec import RunSpec
from robustdistill.store import checkpoint, eventlog
from robustdistill.store.rundir import EVENTS, EXAMPLES, LOCK, RESULT, RunDir
from robustdistill.stored import stored_spec

if TYPE_CHECKING:
    from robustdistill.registry import Registry


def gather(run: RunDir, registry: "Registry") -> Contents:
    """Everything that `RunDir` and the registry know of a run. What is not there yet is left empty.

    Raises DamagedFile for a file that is there and cannot be read.
    """
    spec = stored_spec(run)
    result = outcomes.result(run, records.SHOWN_RESULT) if (run.path / RESULT).exists() else {}
    judged = outcomes.evaluation(run, records.SHOWN_EVALUATION)
    examples = run.path / EXAMPLES
    return Contents(
        name=run.name,
        path=str(run.path),
        method=" + ".join((spec.method, *(m.name for m in spec.modifiers))),
        student=spec.student.name,
        teachers=[t.name for t in spec.teachers.values()],
        data=spec.data.name,
        eps=spec.eps,
        epochs=spec.epochs,
        select=spec.select.attack,
        spec=run.read_spec(),
        environment=run.read_environment(),
        classes=_classes(spec, registry),
        events=_events(run),
        result=result,
        selection=result_table(result) if result else None,
        judged=judged,
        about={name: _about(unit) for name, unit in registry.units("attack").items()},
        points=list(_points(run, spec, result, registry)),
        examples=read_examples(examples, judged.get("examples_sha256")) if examples.exists() else None,
        notes=outcomes.remarks(outcomes.outcome(run)) if result or judged else (),
    )


def _classes(spec: RunSpec, registry: "Registry") -> tuple[str, ...]:
    """What the classes of a run are called; () where its data cannot be had: its plugin is gone, or its folder."""
    try:
        return registry.class_names(spec.data.name, spec.data.dir)
    except (RobustDistillError, OSError):
        return ()


def _events(run: RunDir) -> list[dict[str, Any]]:
    """The event log, held against what the newest checkpoint remembers of it unless a process is at work there."""
    path, aside = run.path / EVENTS, "move it elsewhere, and the report goes without the course of the training"
    events = run.read_events()
    records.check(records.EVENTS, events, path, aside)
    still = path.exists() and not (run.path / LOCK).exists()
    if still and eventlog.altered(path, checkpoint.newest_meta(run.checkpoints).get("events")):
        raise DamagedFile(f"{path} was altered: it is not as the newest checkpoint remembers it; {aside}")
    return events


def _about(attack: Any) -> About:
    objective = getattr(attack.objective, "__name__", "") if attack.objective else ""
    return About(attack.summary, objective.replace("_", " "))


def _points(run: RunDir, spec: RunSpec, result: dict[str, Any], registry: "Registry") -> Iterator[Point]:
    """Test accuracies from the ends of trainings: the other runs', the teacher's on record, and this run's own."""
    if not result:
        return
    yield from _neighbours(run, spec, result)
    known = references(spec, registry)
    if {"clean", spec.select.attack} <= known.accuracies.keys():
        yield Point(known.teacher, known.accuracies["clean"], known.accuracies[spec.select.attack], "teacher")
    for which in CHECKPOINTS:
        yield from _point(f"this run's {which} epoch", result[which]["test"], spec.select.attack, which)


def _neighbours(run: RunDir, spec: RunSpec, result: dict[str, Any]) -> Iterator[Point]:
    """Finished runs in the same folder on the same test images at the same radius, by their best epochs."""
    for other in _runs_beside(run):
        try:
            theirs, test = stored_spec(other), outcomes.result(other)["best"]["test"]
        except RobustDistillError:
            continue  # it still runs, or is damaged: that is not this report's business
        same = (theirs.data.name, test.get("n")) == (spec.data.name, result["best"]["test"]["n"])
        if same and math.isclose(theirs.eps, spec.eps):
            yield from _point(other.name, test, spec.select.attack, "other")


def _runs_beside(run: RunDir) -> list[RunDir]:
    here = run.path.resolve()
    return [other for other in runs_in(here.parent) if other.path.resolve() != here]


def _point(name: str, test: dict[str, float], attack: str, kind: str) -> Iterator[Point]:
    if {"clean", attack} <= test.keys():
        yield Point(name, test["clean"], test[attack], kind)
