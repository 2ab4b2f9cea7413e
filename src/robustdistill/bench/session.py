"""All rows of one speed table, in one process: ratios between them are what can be quoted."""

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from robustdistill.assemble import build_game
from robustdistill.bench.rows import Loop, Row, assembled, limit_of, measured, setting, with_rates
from robustdistill.bench.rows import baseline as other
from robustdistill.bench.standin import images_missing
from robustdistill.engine.work import step_flops
from robustdistill.errors import UserError
from robustdistill.prepare import Run
from robustdistill.registry import Registry
from robustdistill.spec import RunSpec
from robustdistill.store.environment import device_name


def measure(
    spec: RunSpec, rows: Sequence[str], registry: Registry, *, baseline: Path | None = None, budget: float = 2.0
) -> dict[str, Any]:
    """Speed of the run that `spec` describes in each of `rows`, "MODE" or "MODE:PRECISION", and of `baseline`.

    `baseline` is a Python file whose function `epoch` is a `Loop`; it becomes the first row. `budget`: seconds for
    each number. UserError for a mode that there is not, or a baseline without such a function.
    """
    settings = [setting(spec, text) for text in rows]
    loop = _loop(baseline) if baseline else None
    reference = assembled(setting(spec, "eager:fp32"), registry)
    facts, flops = _facts(reference, spec), _flops(reference)
    stand_ins = {
        "images": images_missing(spec, reference.dataset),
        "teacher weights": reference.teachers.keys() != reference.hashes.keys(),  # a file's are hashed
    }
    name, limit = limit_of(reference.device, budget)
    found: list[Row] = [other(loop, reference, budget)] if loop else []
    del reference
    found += [measured(assembled(one, registry), budget) for one in settings]
    return facts | {
        "step_tflop": flops / 1e12,
        "random": [what for what, random in stand_ins.items() if random],
        "limit_format": name,
        "limit_tflops": limit / 1e12,
        "rows": with_rates(found, flops, limit),
    }


def _facts(run: Run, spec: RunSpec) -> dict[str, Any]:
    return {
        "method": spec.method,
        "student": spec.student.name,
        "teachers": ", ".join(spec.teachers[role].name for role in run.reads.roles),
        "data": spec.data.name,
        "batch_size": spec.batch_size,
        "device_name": device_name(run.device),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


def _flops(run: Run) -> float:
    spec, dataset = run.spec, run.dataset
    shape, classes = (spec.batch_size, dataset.channels, dataset.size, dataset.size), len(dataset.classes)
    game = build_game(spec, run.registry, classes)
    return step_flops(game, run.state.student, run.teachers, shape=shape, classes=classes)


def _loop(path: Path) -> Loop:
    try:
        found = runpy.run_path(str(path)).get("epoch")
    except Exception as error:  # it is a program, and somebody else's
        raise UserError(f"{path} cannot be run as Python: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UserError(f"{path} has no function `epoch` that yields after each step")
    loop: Loop = found
    return loop
