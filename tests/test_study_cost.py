"""What a study is said to cost, and the pace of the runs of it that are done."""

import json
from pathlib import Path
from typing import Any

import pytest

import robustdistill as rd
from robustdistill.cli.study_plan import sentence
from robustdistill.engine.work import forward_flops
from robustdistill.events import Started
from robustdistill.factory import built
from robustdistill.registry import default_registry
from robustdistill.store import rundir, sealed
from robustdistill.study.cost import CORE, H100, TINY, Cost, Speed, cost
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item, items
from robustdistill.study.pace import Pace, pace
from robustdistill.study.plan import Study, study_of

REGISTRY = default_registry()
PLAN: dict[str, Any] = {
    "name": "tiny",
    "base": {
        "student": {"name": "digits-net", "width": 4},
        "attack": {"steps": 2},
        "epochs": 2,
        "batch_size": 64,
        "schedule": "cosine",
        "select": {"n": 20, "attack": "fgsm"},
    },
    "axes": {"method": ["rslad"], "seed": [0, 1]},
    "judge": {"attacks": ["fgsm"], "n": 30},
}


def plan(**changes: Any) -> Study:
    return study_of(PLAN | changes)


def costs(study: Study) -> Cost:
    return cost(items(study, REGISTRY), study.judge, REGISTRY)


# ---- operations ---------------------------------------------------------------------------------------------
def test_training_is_what_a_run_says_of_itself_and_its_judgements() -> None:
    study = plan(axes={"method": ["rslad"], "seed": [0]})
    item = items(study, REGISTRY)[0]
    assert item.spec is not None
    started = next(e for e in rd.train(item.spec) if isinstance(e, Started))
    student = built(item.spec.student, REGISTRY, **REGISTRY.dataset("digits", None).sizes)
    price = costs(study)
    passes = 1 + 3  # clean, and FGSM with its gradient
    looks = 2 * 20 + 2 * 360
    one = forward_flops(student, (1, 1, 8, 8))
    assert price.judging == 30 * passes * one
    assert price.training == pytest.approx(started.flops + looks * passes * one, rel=1e-6)


def test_a_network_that_is_there_is_judged_only() -> None:
    study = plan(base={"data": "digits"}, axes={"target": ["digits-robust", "digits-clean"]})
    robust = costs(plan(base={"data": "digits"}, axes={"target": ["digits-robust"]}))
    price = costs(study)
    assert (price.training, price.unknown) == (0, 0)
    assert price.judging == pytest.approx(2 * robust.judging)  # two nets of one architecture


def test_runs_that_differ_in_their_seed_are_counted_once_each() -> None:
    two, one = costs(plan()), costs(plan(axes={"method": ["rslad"], "seed": [0]}))
    assert two == one + one


def test_a_large_student_is_counted_at_a_large_ones_speed() -> None:
    tiny = costs(plan())
    assert tiny.core_seconds == pytest.approx(tiny.seconds(TINY))
    large = {"method": "sat", "data": "cifar10", "student": "rn-18", "epochs": 1}
    price = costs(plan(base=large, axes={"seed": [0]}))
    assert price.core_seconds == pytest.approx(price.seconds(CORE))


def test_a_teacher_that_is_not_there_yet_is_said_to_be_unknown(tmp_path: Path) -> None:
    price = costs(plan(base=PLAN["base"] | {"teacher": f"{tmp_path}/none.pt"}))
    assert price.unknown == 2
    assert "2 runs could not be estimated" in sentence(price, None, gpu=True)


# ---- pace ---------------------------------------------------------------------------------------------------
def finished(folder: Folder, item: Item, epochs: list[tuple[float, float]], verdicts: dict[str, float]) -> None:
    """What a run leaves that its pace is read off: `epochs` as seconds trained, and trained and judged (0: not)."""
    path = folder.run(item).path
    path.mkdir(parents=True)
    lines = [{"event": "trained", "epoch": i, "seconds": t} for i, (t, _) in enumerate(epochs)]
    lines += [{"event": "evaluated", "epoch": i, "seconds": j} for i, (_, j) in enumerate(epochs) if j]
    (path / rundir.EVENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    sealed.write(path / rundir.RESULT, {})
    told = [{"attack": name, "seconds": seconds, "accuracy": 0.5} for name, seconds in verdicts.items()]
    sealed.write(
        path / rundir.EVALUATION, {"verdicts": told, "limit": 30, "n": 30, "whole": False, "eps": 0.2, "seed": 0}
    )


def test_the_pace_is_that_of_the_runs_done(tmp_path: Path) -> None:
    folder = Folder(tmp_path, plan())
    own = items(folder.study, REGISTRY)
    assert pace(folder, own, REGISTRY) is None
    finished(folder, own[0], [(3.0, 0.0), (3.0, 5.0)], {"clean": 0.5, "fgsm": 1.5, "aa": 99.0, "worst": 0.0})
    one = costs(plan(axes={"method": ["rslad"], "seed": [0]}))
    found = pace(folder, own, REGISTRY)
    assert found is not None
    assert found.runs == 1
    assert found.speed.training == pytest.approx(one.training / 8)
    assert found.speed.judging == pytest.approx(one.judging / 2)
    assert one.seconds(found.speed) == pytest.approx(10)


# ---- words --------------------------------------------------------------------------------------------------
PRICE = Cost(training=3e17, judging=6e16, core_seconds=1e7)


def test_the_sentence_says_where_it_would_take_how_long() -> None:
    gpu = sentence(PRICE, None, gpu=True)
    assert gpu == "300 PFLOP of training and at most 60 PFLOP of judging: about 50:00 min on an H100"
    assert sentence(PRICE, None, gpu=False).startswith(f"{gpu}, 2,778 h on one core of a CPU, of which there are ")
    before = Pace(Speed(training=1e15, judging=1e15), 3)
    assert sentence(PRICE, before, gpu=False) == f"{gpu}, 6:00 min for one worker at the pace of the 3 that are done"
    assert PRICE.seconds(H100) == 3000
