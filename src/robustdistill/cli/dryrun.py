"""`train --dry-run`: the run is prepared, data and teachers included, and described; nothing is written or fetched."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustdistill.cli import progress, render
from robustdistill.store.plain import plain

if TYPE_CHECKING:
    from robustdistill.prepare import Run
    from robustdistill.spec import RunSpec


def show(specs: "Sequence[RunSpec]", folders: Sequence[Path], *, as_json: bool) -> None:
    """What the runs would do; they differ in their seed only, so the first one is prepared."""
    from robustdistill.assemble import blank
    from robustdistill.prepare import prepare
    from robustdistill.registry import default_registry
    from robustdistill.store import rundir

    for folder in folders:
        rundir.refuse_occupied(folder)
    registry, data = default_registry(), specs[0].data
    images = blank(registry.dataset(data.name, data.dir)) if data.dir is None else None
    run = prepare(specs[0], registry, splits=images, trial=True)
    facts = _facts(run, [spec.seed for spec in specs], folders)
    facts["data"]["download"] = images is not None
    if as_json:
        progress.emit({"event": "dry-run", **plain(facts)})
    else:
        render.show_pairs(_pairs(facts))


def _facts(run: "Run", seeds: Sequence[int], folders: Sequence[Path]) -> dict[str, Any]:
    from robustdistill.study.cost import of_a_core

    spec, splits = run.spec, run.splits
    teachers = {
        role: {"name": spec.teachers[role].name, "parameters": _parameters(network), "download": role not in run.hashes}
        for role, network in run.teachers.items()
    }
    return {
        "method": spec.method,
        "inner": spec.inner.name,
        "outer": spec.outer.name,
        "with": [m.name for m in spec.modifiers],
        "student": {"name": spec.student.name, "parameters": _parameters(run.state.student)},
        "teachers": teachers,
        "data": {"name": spec.data.name, **{s: len(getattr(splits, s)) for s in ("train", "holdout", "test")}},
        "eps": spec.eps,
        "reads": run.reads.flat(),
        "terms": run.reads.terms,
        "epochs": spec.epochs,
        "steps_per_epoch": len(run.job.steps.batches),
        "batch_size": spec.batch_size,
        "device": str(run.device),
        "execution": str(run.execution),
        "flops": run.work.total,
        "core_seconds": run.work.total / of_a_core(run.work.student).training if run.device.type == "cpu" else None,
        "warnings": (*run.warnings, *run.job.steps.notes),
        "seeds": seeds,
        "out": folders,
    }


def _parameters(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


def _pairs(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    student, data = facts["student"], facts["data"]
    fetched = {True: "; downloaded by the run", False: ""}
    teachers = [
        f"{role} = {t['name']} ({t['parameters']:,} parameters{fetched[t['download']]})"
        for role, t in facts["teachers"].items()
    ]
    steps = facts["epochs"] * facts["steps_per_epoch"]
    sizes = ", ".join(f"{data[part]:,} {part}" for part in ("train", "holdout", "test"))
    images = "; downloaded by the run unless it was before" if data["download"] else ""
    return [
        ("method", ", ".join((facts["method"], *facts["with"]))),
        ("ascends", facts["inner"]),
        ("descends", facts["outer"]),
        ("terms", ", ".join(facts["terms"]) or "one"),
        ("student", f"{student['name']} ({student['parameters']:,} parameters)"),
        ("teachers", "; ".join(teachers) or "none are read"),
        ("data", f"{data['name']}: {sizes}{images}"),
        ("eps", f"{facts['eps']:.4g}"),
        ("step", forwards(facts["reads"])),
        ("epochs", f"{facts['epochs']} x {facts['steps_per_epoch']} steps of {facts['batch_size']} = {steps:,} steps"),
        ("work", progress.work(facts["flops"], facts["core_seconds"])),
        ("device", facts["device"]),
        ("runs", facts["execution"]),
        ("seeds", ", ".join(map(str, facts["seeds"]))),
        ("would go to", "  ".join(map(str, facts["out"]))),
        *(("warning", text) for text in facts["warnings"]),
    ]


def forwards(reads: Mapping[str, int]) -> str:
    """The forwards of one step in words: "attack: 10 student, 10 robust; update: 2 student, 2 robust"."""
    parts = {"inner": "attack", "outer": "update"}
    texts = []
    for part, word in parts.items():
        counts = [f"{n} {k.removeprefix(part).strip()}" for k, n in reads.items() if k.startswith(part)]
        texts.append(f"{word}: {', '.join(counts) or 'none'}")
    return "forwards of the " + "; of the ".join(texts)
