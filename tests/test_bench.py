"""What `bench` counts and measures. Times themselves are never tested."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from games import Tiny, game, teacher
from robustdistill.bench import timing
from robustdistill.bench.rows import assembled, limit_of, measured, setting, with_rates
from robustdistill.bench.session import measure
from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.work import estimate, forward_flops, step_flops
from robustdistill.errors import UserError
from robustdistill.prepare import prepare
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve
from robustdistill.spec import RunSpec

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
CONV, LINEAR = 2 * 9 * 4 * 16, 2 * 64 * 10  # operations of Tiny, an image: 3x3 to 4 channels of 4x4, 64 to 10


def spec_of(**layer: Any) -> RunSpec:
    small = {"batch_size": 16, "device": "cpu", "attack": {"steps": 1}}
    return resolve([small | layer], default_registry())


# ---- operations -------------------------------------------------------------------------------------------
def test_a_forward_counts_two_for_each_multiplication_and_addition() -> None:
    assert forward_flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 3, 2, 2)) == 2 * 3 * 12 * 5
    network = Tiny()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert forward_flops(network, (1, 1, 8, 8)) == CONV + LINEAR
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


class AsksTheHost(nn.Module):
    """A teacher that computes on its own device alone."""

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return v.flatten(1)[:, :10] * float(v.mean())


def test_counting_stops_no_run_and_leaves_a_network_as_it_was() -> None:
    student = Tiny().train()
    assert forward_flops(student, (1, 1, 8, 8)) > 0
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    run = prepare(spec_of(method="rslad"), default_registry(), teacher=AsksTheHost())
    assert run.work.total > 0


def test_a_step_counts_what_runs_and_no_weight_gradient_in_the_attack() -> None:
    shape, tutor = (7, 1, 8, 8), teacher()
    attack = 10 * 2 * (CONV + LINEAR)  # forward, and gradient to the images
    update = 2 * (CONV + LINEAR) + LINEAR  # forward, weights' gradients, and one between the layers
    sat = step_flops(game({"method": "sat"}), Tiny(), {}, shape=shape, classes=10)
    assert sat == 7 * (attack + update)
    wide = forward_flops(tutor, (1, 1, 8, 8))
    mmard = step_flops(game({"method": "mmard"}), Tiny(), {"robust": tutor}, shape=shape, classes=10)
    assert mmard == 7 * (attack + 2 * update + 10 * 2 * wide + 2 * wide)


@pytest.mark.parametrize("method", ["nature", "sat", "rslad", "mmard"])
def test_the_estimate_before_a_run_is_close_to_the_count(method: str) -> None:
    reads = dry_step(game({"method": method}), Tiny(), shape=(2, 1, 8, 8), classes=10)
    teachers = {"robust": teacher()} if "robust" in reads.roles else {}
    work = estimate(reads, Tiny(), teachers, (1, 8, 8), batch=5, steps=3)
    exact = step_flops(game({"method": method}), Tiny(), teachers, shape=(5, 1, 8, 8), classes=10)
    assert work.student == CONV + LINEAR
    assert work.total == 3 * work.step
    assert exact <= work.step <= 1.4 * exact


# ---- measuring --------------------------------------------------------------------------------------------
def test_seconds_are_per_call_and_fill_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    calls = []

    def work() -> None:
        calls.append(1)
        now[0] += 0.5

    assert timing.seconds(CPU, work, budget=6.0) == 0.5
    assert len(calls) == 1 + 3 * 4
    calls.clear()
    assert timing.seconds(CPU, work, budget=0.0) == 0.5
    assert len(calls) == 1 + 3


def test_rates_follow_from_seconds() -> None:
    run = assembled(setting(spec_of(method="sat"), "eager:fp32"), default_registry())
    row = measured(run, 0.0)
    twice = type(row)(**{**vars(row), "step": row.step / 2, "epoch": row.epoch / 4})
    first, second = with_rates([row, twice], flops=3e9, limit=3e9 / row.step * 10)
    assert first["speedup"] == 1
    assert second["speedup"] == pytest.approx(4)
    assert first["share"] == pytest.approx(0.1)
    assert second["tflops"] == pytest.approx(2 * first["tflops"])
    assert row.images_per_second == pytest.approx(16 / row.step)
    assert row.epoch > 78 * row.step
    assert row.memory_gib is None
    assert min(row.augment or 0, row.selection or 0, row.first_step or 0) > 0
    assert min(row.attack or 0, row.update or 0) >= 0  # differences of two measurements


@pytest.mark.slow
def test_rows_are_those_asked_for_and_the_baseline_comes_first() -> None:
    found = measure(
        spec_of(method="rslad"),
        ["eager:fp64", "graph:bf16"],
        default_registry(),
        baseline=ROOT / "benchmarks" / "published.py",
        budget=0.0,
    )
    assert [row["name"] for row in found["rows"]] == ["baseline", "eager fp64", "eager bf16"]
    assert found["rows"][2]["notes"][-1].startswith("mode graph records CUDA graphs")
    assert found["rows"][0]["selection"] is None
    assert found["random"] == []
    assert found["step_tflop"] > 0
    assert json.loads(json.dumps(found))["method"] == "rslad"


@pytest.mark.slow
def test_random_images_and_weights_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdistill.bench.standin.TRAIN", 40)
    monkeypatch.setattr("robustdistill.bench.standin.HOLDOUT", 20)
    spec = spec_of(
        method="mmard",
        data={"name": "cifar10"},
        student={"name": "digits-net"},
        teachers={"robust": {"name": "wrn-16-1"}},
        batch_size=8,
    )
    run = assembled(spec, default_registry())
    assert tuple(run.splits.train.images.shape) == (40, 3, 32, 32)
    logits = run.job.networks.teachers["robust"](torch.rand(4, 3, 32, 32))
    assert float(logits.abs().max()) < 100
    found = measure(spec, ["eager:fp32"], default_registry(), budget=0.0)
    assert found["random"] == ["images", "teacher weights"]


def test_what_cannot_be_measured_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mode = 'fast'"):
        measure(spec_of(), ["fast"], default_registry())
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(UserError, match="has no function `epoch`"):
        measure(spec_of(), ["eager"], default_registry(), baseline=empty)


@pytest.fixture
def no_budget() -> list[str]:
    return ["--method", "sat", "--batch-size", "64", "--seconds", "0", "--set", "attack.steps=1", "--device", "cpu"]


def rd(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "robustdistill", *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(no_budget: list[str]) -> None:
    done = rd("bench", *no_budget, "--rows", "eager:fp32")
    assert done.returncode == 0, done.stderr
    head, limit, columns, _, row, *epochs = (line.strip() for line in done.stdout.splitlines() if line.strip())
    assert head.startswith("sat: digits-net from no teacher, batches of 64, ")
    assert "a large matrix product reaches" in limit
    assert columns.startswith("images/s  step ms  augment  attack  update")
    assert row.startswith("eager fp32")
    assert row.endswith("%")
    assert epochs[0].split()[-2:] == ["epoch", "speed-up"]
    assert epochs[2].endswith("1.00x")
    assert max(map(len, done.stdout.splitlines())) <= 100
    found = json.loads(rd("bench", *no_budget, "--rows", "eager", "--json").stdout)
    assert (found["event"], len(found["rows"])) == ("bench", 1)
    missing = rd("bench", "--baseline", "nowhere.py")
    assert (missing.returncode, missing.stderr) == (2, "error: there is no file nowhere.py with a baseline\n")


@pytest.mark.slow
def test_saved_measurements_are_shown_again(no_budget: list[str], tmp_path: Path) -> None:
    found = rd("bench", *no_budget, "--rows", "eager", "--json").stdout
    (tmp_path / "speed.jsonl").write_text(found)
    command = [sys.executable, str(ROOT / "benchmarks" / "show.py"), str(tmp_path / "speed.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "eager fp32" in done.stdout


@pytest.mark.parametrize("native", [True, False])
def test_a_format_that_is_only_emulated_is_no_limit(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of large matrices in emulated bf16 takes minutes."""
    monkeypatch.setattr("robustdistill.engine.execution.cpu_computes_bf16", lambda: native)
    asked: list[torch.dtype] = []

    def rate(device: torch.device, dtype: torch.dtype, budget: float) -> float:
        asked.append(dtype)
        return float(len(asked))

    monkeypatch.setattr(timing, "matmul_rate", rate)
    assert limit_of(torch.device("cpu"), 0.1)[0] == "fp32"
    assert set(asked) == ({torch.bfloat16, torch.float32} if native else {torch.float32})
