"""What judging reveals and a run announces: masked gradients, and a teacher behind its student."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import robustdistill as rd
from robustdistill.engine import loop
from robustdistill.engine.job import Judge
from robustdistill.errors import Stopped
from robustdistill.events import Evaluated, Event, Warned
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve
from runs import run_of
from test_run import read
from test_stopping import after


def judged(robust: list[float], one_step: float = 0.7, method: str = "sat", **judge: Any) -> tuple[list[Any], int]:
    """What a run tells whose epochs are judged so, and how often FGSM was run for it."""
    asked: list[nn.Module] = []

    def fgsm(network: nn.Module) -> float:
        asked.append(network)
        return one_step

    given = iter(robust)
    run = run_of({"method": method, "limit_batches": 1, "epochs": len(robust)})
    made = Judge(lambda network: (0.9, next(given)), "holdout", "pgd-trades", n=180, one_step=fgsm, **judge)
    return list(loop.train(replace(run.job, judge=made), run.state)), len(asked)


def warnings_of(events: list[Any]) -> list[str]:
    return [e.message for e in events if isinstance(e, Warned)]


# ---- catastrophic overfitting ---------------------------------------------------------------------------------
def test_a_fall_of_robust_accuracy_that_fgsm_does_not_see_is_announced_before_the_epochs_verdict() -> None:
    events, asked = judged([0.5, 0.52, 0.1, 0.09])
    assert asked == 1
    at = [type(e) for e in events].index(Warned)
    assert events[at].message == (
        "catastrophic overfitting: accuracy under pgd-trades fell from 52.0 to 10.0 %, under FGSM it is 70.0 %: the "
        "student masks its gradients. More steps of the attack or a random start help; the best epoch is kept"
    )
    assert isinstance(events[at + 1], Evaluated)
    assert events[at + 1].epoch == 2


@pytest.mark.parametrize(
    ("robust", "one_step", "method", "asked"),
    [
        ([0.5, 0.31, 0.12, 0.4], 0.7, "sat", 1),  # it falls slowly: FGSM is run at the end alone
        ([0.5, 0.1], 0.25, "sat", 1),  # so does accuracy under FGSM: the training is unstable, nothing is masked
        ([0.5, 0.1], 0.7, "nature", 0),  # nothing is ascended, and robust accuracy is noise
        ([0.3, 0.36], 0.7, "sat", 1),  # a multi-step attack is stronger than FGSM, by half of its accuracy at most
    ],
)
def test_what_is_no_catastrophe_is_not_called_one(
    robust: list[float], one_step: float, method: str, asked: int
) -> None:
    events, often = judged(robust, one_step, method)
    assert warnings_of(events) == []
    assert often == asked


@pytest.mark.parametrize("robust", [[0.1], [0.0, 0.15, 0.1], [0.5, 0.31, 0.12, 0.1]])
def test_gradients_masked_from_the_first_epoch_on_are_announced_at_the_last(robust: list[float]) -> None:
    events, asked = judged(robust)
    assert asked == 1
    assert warnings_of(events) == [
        "catastrophic overfitting: accuracy under pgd-trades ends, without a sudden fall, at 10.0 %, under FGSM it is "
        "70.0 %: the student masks its gradients. More steps of the attack or a random start help"
    ]


# ---- a teacher behind its student -----------------------------------------------------------------------------
def test_a_student_ahead_of_its_teacher_is_announced_once() -> None:
    events, _ = judged([0.3, 0.4, 0.6, 0.5, 0.7], teacher=lambda: (0.4, 100))
    assert warnings_of(events) == [
        "the student is ahead of its teacher: under pgd-trades 60.0 % against 40.0 % (on 100 images of holdout); a "
        "more robust teacher may help it more"
    ]


def test_an_accident_of_few_images_is_not_announced() -> None:
    events, _ = judged([0.5, 0.55], teacher=lambda: (0.45, 20))
    assert warnings_of(events) == []


def ahead(events: Iterator[Event]) -> list[str]:
    return [m for m in warnings_of(list(events)) if "ahead of its teacher" in m]


def spec(teacher: str, **changes: Any) -> Any:
    layer = {"method": "ard", "epochs": 2, "batch_size": 64, "device": "cpu", "attack": {"steps": 2, "step": "eps/2"}}
    layer |= {"student": {"name": "digits-net", "width": 8}, "eps": 0.15, "teacher": teacher}
    return resolve([layer | changes], default_registry())


@pytest.mark.slow
def test_a_teacher_that_is_not_robust_is_soon_behind_and_a_robust_one_is_not() -> None:
    assert len(ahead(rd.train(spec("digits-clean")))) == 1
    assert ahead(rd.train(spec("digits-robust"))) == []


@pytest.mark.slow
def test_a_resumed_run_does_not_say_it_again(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        list(rd.train(spec("digits-clean"), out=tmp_path / "run", stop=after(30)))
    assert len([e for e in read(tmp_path / "run") if "ahead of its teacher" in e.get("message", "")]) == 1
    assert ahead(rd.resume(tmp_path / "run")) == []
