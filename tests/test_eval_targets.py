"""Paths that `eval` and `load` are given: a run, its pointers, a run that has judged nothing yet, nothing at all."""

from pathlib import Path
from typing import Any

import pytest
import torch

import robustdistill as rd
from robustdistill.errors import UserError
from robustdistill.located import locate_teacher
from robustdistill.registry import default_registry
from robustdistill.spec import Node
from robustdistill.store import rundir
from robustdistill.stored import unjudged
from robustdistill.targets import find_target

SPEC: dict[str, Any] = {
    "method": "sat",
    "student": {"name": "digits-net", "width": 2},
    "attack": {"steps": 1, "step": "eps"},
    "epochs": 2,
    "limit_batches": 2,
    "select": {"n": 20},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: `whole` is over, and `cut`, the newer one, was left before it judged an epoch."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    list(rd.train(SPEC, out=root / "whole"))
    events = rd.train(SPEC, out=root / "cut")
    next(events)
    events.close()  # type: ignore[attr-defined]
    return root


@pytest.mark.parametrize("label", ["best", "latest"])
def test_a_pointer_file_is_followed(runs: Path, label: str) -> None:
    path = runs / "whole" / "checkpoints" / label
    expected = rd.load(runs / "whole", label).state_dict()
    torch.testing.assert_close(rd.load(path).state_dict(), expected, rtol=0, atol=0)
    target = find_target(path, default_registry(), None, None)
    assert (target.data, target.eps) == ("digits", 0.2)
    torch.testing.assert_close(target.network.state_dict(), expected, rtol=0, atol=0)


def test_a_pointer_file_names_a_teacher(runs: Path) -> None:
    found = locate_teacher(Node(name=f"{runs}/whole/checkpoints/best"), default_registry(), "digits")
    assert found == locate_teacher(Node(name=f"{runs}/whole"), default_registry(), "digits")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("nothing", r"^there is no run or file 'nothing', and it is an unknown teacher\. Known: "),
        ("digits-robus", r"^there is no run or file .*, and it is an unknown teacher; did you mean 'digits-robust'\?"),
        ("runs/nix", r"^there is no run or file 'runs/nix'; name a run, one of its checkpoints or a file of weights$"),
        ("nix.pt", r"^there is no run or file 'nix\.pt'; name a run"),
    ],
)
def test_what_is_not_there_is_said_first(target: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        find_target(target, default_registry(), None, None)


def test_a_checkpoint_that_is_not_there_is_told_what_is(runs: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*last; there is best, latest, epoch-0001, epoch-0002\."):
        rd.load(runs / "whole", "last")


def test_a_run_without_a_judged_epoch_says_so_and_how_to_go_on(runs: Path) -> None:
    with pytest.raises(UserError, match=r"cut has judged no epoch yet: .* go on with it by `train --resume .*cut`"):
        rd.load(runs / "cut")


def test_the_newest_run_is_one_with_something_to_judge(runs: Path) -> None:
    assert rundir.newest(runs, lambda run: not unjudged(run)).path == runs / "whole"
    assert rundir.newest(runs, lambda run: False).path == runs / "cut"
