"""Several processes share a run: equal to the bit among themselves, and to one process but for the last digits."""

import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import robustdistill as rd
from doings import CASES, SIZES, SPEC, prepared, steps, taken, teachers, told, verdicts
from games import Tiny
from ranks import FAIR, LIMIT, commands, doing, ended, environment
from robustdistill.data.loader import Loader
from robustdistill.engine.execution import Work, choose, pick_device
from robustdistill.engine.syncbn import SyncBatchNorm, synchronised
from robustdistill.errors import ProcessesApart, UserError
from robustdistill.events import Warned
from robustdistill.types import Augment, Split
from robustdistill.world import ALONE, World, current, join
from test_run import same
from test_stopping import equal

pytestmark = pytest.mark.slow  # two processes a test, each with its own torch
Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return doing("steps", tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reports]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, doing("runs", folder)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAIR))
        return steps(Path())


# ---- steps ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", [*CASES, "own bn"])
def test_processes_are_equal_to_the_bit(case: str, both: Reports) -> None:
    """Weights, buffers, momenta, averages and the method's own state; batches that cannot be shared evenly too."""
    one, two = (report[case] for report in both)
    assert same(one, two)
    assert any("running_var" in name for name in one)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(case: str, both: Reports) -> None:
    run = prepared(case)
    one, two = told(run, taken(run)), both[0][case]
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[k].double(), two[k].double(), rtol=1e-4, atol=1e-8) for k in one)
    assert all(torch.allclose(one[k].double(), two[k].double(), rtol=1e-9, atol=1e-9) for k in ("losses", "fc.weight"))


def test_without_sync_bn_statistics_are_each_process_own(both: Reports) -> None:
    assert not torch.allclose(both[0]["own bn"]["bn.running_var"], both[0]["mtard"]["bn.running_var"])


def test_gradients_are_reduced_once_a_step_and_nothing_in_the_attack(both: Reports) -> None:
    reduces, numbers = both[0]["reduces"], both[0]["numbers"] + both[0]["tensors"]
    assert [inside for inside, _ in reduces if inside] == []
    assert [n for _, n in reduces if n >= numbers] == [numbers] * 3
    assert len(reduces) == 3 * 4  # and the loss, its gradient, the buffers
    more = both[0]["reduces with sync_bn"]
    assert [n for inside, n in more if inside or n >= numbers] == [numbers] * 3
    assert len(more) == 3 * (4 + 2 * 2)  # each of the update's two forwards, and its gradient


def test_reductions_are_those_of_the_whole_batch(both: Reports, alone: dict[str, Any]) -> None:
    for report in both:
        for name in ("mean", "min", "loss"):
            assert torch.allclose(report["formulas"][name], alone["formulas"][name])
    for i in range(2):
        assert torch.allclose(torch.cat([r["formulas"]["grads"][i] for r in both]), alone["formulas"]["grads"][i])


def test_batch_norm_over_processes_is_batch_norm_on_the_whole_batch(both: Reports, alone: dict[str, Any]) -> None:
    """Values, gradients, second derivatives, running statistics, with 3 and 4 images; names are kept."""
    plain = {k: v.double() for k, v in alone["bn"]["state"].items()}
    for report in both:
        assert list(report["bn"]["state"]) == list(Tiny().state_dict())
        assert all(torch.allclose(report["bn"]["state"][k].double(), v) for k, v in plain.items())
    assert torch.allclose(torch.cat([r["bn"]["slope"] for r in both]), alone["bn"]["slope"])
    for i, twice in enumerate(alone["bn"]["twice"]):
        assert torch.allclose(both[0]["bn"]["twice"][i], twice, atol=1e-9)


def test_a_parameter_without_gradient_here_waits_for_nobody(both: Reports) -> None:
    for report in both:
        a, b, c = report["odd"]
        assert (a.tolist(), b.tolist(), c.tolist()) == ([0, 0], [0.5, 0.5], [1, 1])
        assert report["none"]


def test_what_a_package_sums_is_summed_over_all(both: Reports, alone: dict[str, Any]) -> None:
    assert both[0]["fair"]["seen"].sum() == sum(SIZES)
    for report in both:
        assert same(report["fair"], alone["fair"])


def test_noise_is_that_of_the_whole_batch(both: Reports, alone: dict[str, Any]) -> None:
    assert torch.equal(torch.cat([r["noise"] for r in both]), alone["noise"])
    assert not torch.equal(*(r["own noise"] for r in both))


# ---- runs -------------------------------------------------------------------------------------------------
def test_stopped_by_one_all_stop_after_the_same_step_and_go_on_to_the_bit(ran: tuple[Path, Reports]) -> None:
    folder, (first, second) = ran
    assert first["stopped"][:2] == ("Stopped", "stopped after 0 epochs and 3 steps; it is saved")
    assert second["stopped"][:2] == ("Stopped", "stopped after 0 epochs and 3 steps; nothing was to be written")
    equal(folder / "whole", folder / "stopped")
    assert "Saved" in first["events"]
    assert "Saved" not in second["events"]


def test_the_run_says_how_many_shared_it_and_another_number_goes_on_with_a_warning(ran: tuple[Path, Reports]) -> None:
    run = ran[0] / "stopped"
    how = json.loads((run / "environment.json").read_text())
    assert (how["processes"], how["sync_bn"]) == (2, False)
    assert json.loads((run / "result.json").read_text())["execution"]["processes"] == 2
    told = [e.message for e in rd.resume(run, teacher=teachers()) if isinstance(e, Warned)]
    assert "the run goes on elsewhere, so not bit for bit: processes 2 -> 1" in told


@pytest.mark.parametrize(
    ("what", "kind", "sentence", "process"),
    [
        ("planted", "ProcessesApart", "after epoch 1 the 2 processes of the run are no longer equal: 2 of 26", 0),
        ("other student", "ProcessesApart", "at the start the 2 processes of the run are no longer equal", 0),
        ("other spec", "UserError", "the processes of the run were given different specs or teachers", 0),
        ("too small", "UserError", "4 images in batches of 1 leave one of 1, too few for 2 processes", 0),
        ("one alone", "UserError", "epochs", 1),
        ("diverged", "Diverged", "at epoch 1, step", None),
        ("taken", "UserError", "already holds a run", 0),
    ],
)
def test_what_stops_one_stops_all(
    what: str, kind: str, sentence: str, process: int | None, ran: tuple[Path, Reports]
) -> None:
    for report in ran[1]:
        name, message, of = report[what]
        assert name == kind
        assert sentence in message
        assert of == process


def test_what_is_not_finite_is_recorded_of_all_images(ran: tuple[Path, Reports]) -> None:
    record = json.loads((ran[0] / "nan" / "nonfinite.json").read_text())
    assert len(record["ids"]) == len(record["losses"]) == SPEC["batch_size"]


def test_verdicts_do_not_depend_on_how_many_judge(ran: tuple[Path, Reports]) -> None:
    one = verdicts()
    for report in ran[1]:
        assert same(report["verdicts"], one["verdicts"])
        for name in ("pgd", "aa", "stages"):
            assert torch.equal(report["small"][name], one["small"][name])
    assert [int(r["small"]["done"]) for r in (*ran[1], one)] == [3, 2, 5]
    assert 0 < int(one["small"]["aa"].sum()) < 23


# ---- commands ---------------------------------------------------------------------------------------------
TRAIN = ["train", "--method", "sat", "--device", "cpu", "--batch-size", "32", "--set", "select.n=20", "--out", "run"]
SHORT = [*TRAIN, "--epochs", "1", "--steps", "2", "--set", "limit_batches=2"]
LONG = [*TRAIN, "--epochs", "400", "--set", "select.every=400", "--json"]


def test_torchrun_makes_one_run_that_one_process_judges(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "--", "robustdistill"]  # torchrun would take our --n for one of its own
    how: dict[str, Any] = {"cwd": tmp_path, "env": environment(), "capture_output": True, "text": True}
    done = subprocess.run([*command, *SHORT, "--set", "sync_bn=true"], timeout=LIMIT, check=True, **how)
    assert done.stdout.count("next  robustdistill eval run") == 1
    assert done.stderr.count("epoch 1/1") == 1
    again = subprocess.run(
        [*command, "eval", "run", "--n", "20", "--attacks", "fgsm"], timeout=LIMIT, check=True, **how
    )
    assert again.stdout.count("20 test images of digits") == 1
    shared = json.loads((tmp_path / "run" / "evaluation.json").read_text())["verdicts"]
    x = rd.evaluate(tmp_path / "run", n=20, attacks=("fgsm",), device="cpu")
    assert ["".join("01"[c] for c in v.correct.int().tolist()) for v in x] == [v["correct"] for v in shared]


def started(processes: "list[subprocess.Popen[str]]") -> Iterator[str]:
    """The first process' lines up to its first step."""
    out = processes[0].stdout
    assert out is not None
    for line in out:
        yield line
        if '"stepped"' in line:
            return


def test_sigterm_to_one_saves_and_ends_all(tmp_path: Path) -> None:
    processes = commands(LONG, tmp_path)
    assert list(started(processes))
    processes[1].send_signal(signal.SIGTERM)
    (code, _, said), (other, out, silence) = ended(processes)
    assert (code, other) == (75, 75)
    assert "it is saved; go on with: robustdistill train --resume run" in said
    assert (out, silence) == ("", "")
    assert list((tmp_path / "run" / "checkpoints").glob("epoch-*"))


def test_a_process_that_dies_ends_the_others_with_a_sentence(tmp_path: Path) -> None:
    processes = commands(LONG, tmp_path)
    assert list(started(processes))
    processes[1].kill()
    began = time.monotonic()
    (code, _, said), _ = ended(processes)
    assert code == ProcessesApart.exit_code == 8
    assert "error: another process of the run is gone" in said
    assert time.monotonic() - began < 60


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    (code, out, said), (other, silent, silence) = ended(commands([*SHORT, "--method", "no-such"], tmp_path))
    assert (code, other) == (2, 2)
    assert said.count("no-such") == 1
    assert (out, silent, silence) == ("", "", "")
    assert list(tmp_path.iterdir()) == []


# ---- one process ------------------------------------------------------------------------------------------
def test_alone_nothing_is_joined_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a process alone speaks to nobody")

    monkeypatch.setattr(torch.distributed, "all_reduce", never)
    monkeypatch.setattr(torch.distributed, "all_gather_object", never)
    assert join() is current() is ALONE
    run = prepared("mtard", sync_bn=True)
    assert not run.state.optimizer._optimizer_step_pre_hooks
    assert not any(isinstance(m, SyncBatchNorm) for m in run.state.student.modules())
    taken(run)


def test_rows_are_shared_to_the_last() -> None:
    for n in (5, 7, 128):
        rows = [i for rank in range(3) for i in range(n)[World(rank, 3).part(n)]]
        assert rows == list(range(n))


@pytest.mark.parametrize("resident", [True, False])
def test_each_process_makes_its_rows_of_a_batch(resident: bool) -> None:
    images = torch.arange(10 * 4, dtype=torch.uint8).view(10, 1, 2, 2)
    how: dict[str, Any] = {"batch_size": 5, "augment": Augment(1, True), "seed": 0, "device": "cpu"}
    split = Split(images, torch.arange(10))
    whole = list(Loader([split], **how).epoch(0))
    parts = [list(Loader([split], **how, resident=resident, part=World(r, 2).part).epoch(0)) for r in range(2)]
    for one, *shared in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([b.x for b in shared]), one.x)
        assert torch.equal(torch.cat([b.y for b in shared]), one.y)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdistill.engine.execution.current", lambda: World(3, 4, 1))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("cuda") == pick_device("auto") == torch.device("cuda:1")
    with pytest.raises(UserError, match="write --device cuda"):
        pick_device("cuda:1")
    much, little = Work(1e9, 1e15, 1000), Work(1e9, 1e9, 1000)
    assert choose("graph", "fp32", torch.device("cuda:1"), little)[0].mode == "eager"
    how, notes = choose("graph", "fp32", torch.device("cuda:1"), much)
    assert (how.mode, how.compiled, len(notes)) == ("compile", True, 1)
    assert choose("auto", "fp32", torch.device("cuda:1"), much)[0].mode == "compile"


def test_a_process_that_sees_its_own_gpu_alone_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So SLURM's --gpus-per-task=1 starts them; torchrun's processes all see the same ones."""
    monkeypatch.setattr("robustdistill.engine.execution.current", lambda: World(3, 4, 3))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert pick_device("cuda") == pick_device("auto") == torch.device("cuda:0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match=r"cuda:3.* 1 CUDA devices"):
        pick_device("cuda")


def test_sync_bn_refuses_a_layer_that_it_does_not_know() -> None:
    class Own(torch.nn.BatchNorm2d):
        pass

    network = copy.deepcopy(Tiny())
    network.bn = Own(4)
    with pytest.raises(UserError, match="layer bn is a Own; leave sync_bn out"):
        synchronised(network)
