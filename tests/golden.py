"""Golden loss curves: what twelve float64 steps of every method on the digits gave when they were last trusted.

python tests/golden.py      writes tests/assets/golden.json anew; say in the commit why the curves moved
"""

import json
from pathlib import Path
from typing import Any

import torch

from games import teacher, teachers_of
from robustdistill.prepare import prepare
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve

PATH = Path(__file__).parent / "assets" / "golden.json"
STEPS = 12
CASES: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("nature", "sat", "rslad", "mmard")},
    **{name: {"method": name} for name in ("trades", "ard", "iad", "iad-ii", "mtard")},
    **{f"{name}@official": {"method": f"{name}@official"} for name in ("sat", "trades", "ard", "iad", "mtard")},
    "iad-begun": {"method": "iad", "outer": {"begin": 0.0}},
    "iad-ii-begun": {"method": "iad-ii", "outer": {"begin": 0.0}},
    "mmard@literal": {"method": "mmard@literal"},
    "mmard-logit-sum": {"method": "mmard", "outer": {"space": "logit", "reduction": "sum"}},
    "mmard-detached": {"method": "mmard", "inner": {"teacher_grad": "detach"}},
    "rslad-mmard-inner": {"method": "rslad", "inner": "kl-teacher-adv"},
    "mmard-awp": {"method": "mmard", "with": ["awp"]},
}


def curve(case: str) -> list[float]:
    """The outer losses of the first steps, then the sum of the student's absolute weights."""
    layer = CASES[case] | {"precision": "fp64", "batch_size": 32, "student": {"name": "digits-net", "width": 4}}
    registry = default_registry()
    run = prepare(resolve([layer], registry), registry, teacher=teachers_of(CASES[case]) or teacher())
    state, steps, losses = run.state, run.job.steps, []
    for i, picks in enumerate(steps.batches.picks(0)):
        if i == STEPS:
            break
        losses.append(float(steps.take(picks, 0, i)))
    return [*losses, float(sum(p.detach().abs().sum() for p in state.student.parameters()))]


def read() -> dict[str, list[float]]:
    return dict(json.loads(PATH.read_text(encoding="utf-8")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    PATH.write_text(json.dumps({case: curve(case) for case in CASES}, indent=1) + "\n", encoding="utf-8")
