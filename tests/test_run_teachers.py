"""A run that is over, or one of its checkpoints, as a teacher: its judged weights, or a sentence."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import robustdistill as rd
from robustdistill import assemble
from robustdistill.errors import DamagedFile, UserError
from robustdistill.events import Evaluated, Finished
from robustdistill.located import locate_teacher
from robustdistill.prepare import prepare
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve
from robustdistill.spec import Node
from robustdistill.store import rundir
from robustdistill.store.atomic import sha256

REGISTRY = default_registry()
WIDE: dict[str, Any] = {
    "method": "sat",
    "student": {"name": "digits-net", "width": 5},
    "attack": {"steps": 1, "step": "eps"},
    "average": {"name": "ema", "decay": 0.5},
    "epochs": 2,
    "limit_batches": 2,
    "select": {"n": 20},
}
NARROW: dict[str, Any] = {
    **WIDE,
    "method": "rslad",
    "student": {"name": "digits-net", "width": 2},
    "epochs": 1,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one that is over, `whole`, and one that was left after its first epoch, `half`."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    assert isinstance(list(rd.train(WIDE, out=root / "whole"))[-1], Finished)
    events = rd.train(WIDE, out=root / "half")
    while not isinstance(next(events), Evaluated):
        pass
    next(events)  # saved
    events.close()  # type: ignore[attr-defined]
    return root


def built(name: str, data: str = "digits") -> dict[str, torch.Tensor]:
    dataset = REGISTRY.dataset(data, None)
    return dict(assemble.build_teacher(Node(name=name), dataset, REGISTRY, data).state_dict())


def test_a_run_teaches_with_its_best_student(runs: Path) -> None:
    torch.testing.assert_close(built(f"{runs}/whole"), rd.load(runs / "whole").state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(built(f"digits-net@{runs}/whole"), rd.load(runs / "whole").state_dict())


def test_a_checkpoint_teaches_with_what_was_judged_of_it(runs: Path) -> None:
    one = next((runs / "half" / rundir.CHECKPOINTS).glob("epoch*"))
    torch.testing.assert_close(built(str(one)), rd.load(one).state_dict(), rtol=0, atol=0)


def test_a_run_is_trained_from_a_run_and_records_its_weights(runs: Path, tmp_path: Path) -> None:
    spec = resolve([NARROW | {"teacher": f"{runs}/whole"}], REGISTRY)
    run = prepare(spec, REGISTRY)
    assert next(run.teachers["robust"].parameters()).shape[0] == 5
    assert run.hashes == {"robust": sha256(locate_teacher(spec.teachers["robust"], REGISTRY, "digits").path)}
    result = list(rd.train(spec, out=tmp_path / "student"))[-1].result  # type: ignore[union-attr]
    assert result["teachers"] == {"robust": f"{runs}/whole"}
    assert isinstance(list(rd.evaluate(tmp_path / "student", attacks=["fgsm"], n=20))[-1].accuracy, float)


def test_a_run_that_is_not_over_is_no_teacher_yet(runs: Path) -> None:
    with pytest.raises(UserError, match=r"half is no teacher yet: the run has not ended.*--resume .*checkpoints/NAME"):
        prepare(resolve([NARROW | {"teacher": f"{runs}/half"}], REGISTRY), REGISTRY)


def test_a_run_of_other_data_is_refused_unless_its_architecture_is_named(runs: Path) -> None:
    with pytest.raises(UserError, match=r"was trained on digits; the run's data is cifar10: add --data digits"):
        locate_teacher(Node(name=f"{runs}/whole"), REGISTRY, "cifar10")
    assert locate_teacher(Node(name=f"digits-net@{runs}/whole"), REGISTRY, "cifar10").arch == "digits-net"


@pytest.mark.parametrize("name", ["{}", "digits-net@{}"])
def test_a_run_whose_weights_changed_or_went_is_refused(runs: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "whole", copy)
    file = locate_teacher(Node(name=str(copy)), REGISTRY, "digits").path
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match="SHA-256"):
        locate_teacher(Node(name=name.format(copy)), REGISTRY, "digits")
    shutil.rmtree(copy / rundir.CHECKPOINTS)
    with pytest.raises(UserError, match="There is no checkpoint"):
        locate_teacher(Node(name=name.format(copy)), REGISTRY, "digits")
