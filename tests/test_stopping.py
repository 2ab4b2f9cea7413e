"""Runs that are stopped anywhere and go on: equal to the bit to the run that was never stopped."""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robustdistill as rd
from games import Tiny, teacher, teachers_of
from robustdistill.engine import loop
from robustdistill.engine.tape import Tapes
from robustdistill.errors import Diverged, Stopped
from robustdistill.events import Event, Finished, Saved, Trained, Warned
from robustdistill.registry import default_registry
from robustdistill.run import find_checkpoint
from runs import run_of
from test_run import read, same, strip

FAULTS = int(os.environ.get("ROBUSTDISTILL_FAULTS", "3"))
SPEC: dict[str, Any] = {
    "epochs": 2,
    "limit_batches": 4,
    "batch_size": 16,
    "student": {"name": "digits-net", "width": 4},
    "select": {"n": 20, "attack": "fgsm"},
    "device": "cpu",
}
METHODS = sorted(default_registry().units("method"))
STEPS = 2 * 4


def layer(**changes: Any) -> dict[str, Any]:
    made = SPEC | changes
    return made if made["method"] == "nature" else made | {"attack": {"steps": 2, "step": "eps/2"}}


def teachers(spec: dict[str, Any]) -> Any:
    return teachers_of({"method": spec["method"]}) or None


def after(n: int) -> Any:
    """Asks to stop when it is asked itself for the nth time: once a step, once before an epoch is judged."""
    asked = count(1)
    return lambda: next(asked) >= n


def whole(out: Path, spec: dict[str, Any]) -> Path:
    assert isinstance(list(rd.train(spec, teacher=teachers(spec), out=out))[-1], Finished)
    return out


def equal(a: Path, b: Path) -> None:
    one, two = find_checkpoint(a).checkpoint, find_checkpoint(b).checkpoint
    assert one is not None
    assert two is not None
    assert same(one.weights, two.weights)
    state = [{k: v for k, v in c.state.items() if k != "events"} for c in (one, two)]
    assert same(*state)
    assert (a / "result.json").read_text() == (b / "result.json").read_text()
    logs = [[strip(e) for e in read(p) if e["event"] != "started"] for p in (a, b)]
    assert logs[0] == logs[1]


def to_the_end(out: Path, spec: dict[str, Any], start: Any, again: Any) -> int:
    """Drives a run that asks to stop again and again; how often it stopped."""
    events: Iterator[Event] = rd.train(spec, teacher=teachers(spec), out=out, stop=start())
    for stops in count():
        try:
            assert isinstance(list(events)[-1], Finished)
            return stops
        except Stopped:
            events = rd.resume(out, teacher=teachers(spec), stop=again())
    raise AssertionError


QUICK = ("mmard", "mtard@official")  # one without state of its own and one with; the others are slow together
OTHERS = [m for m in (*METHODS, "trades@official", "iad@official") if m not in QUICK]


@pytest.mark.parametrize("method", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_method_goes_on_from_the_middle_of_an_epoch(tmp_path: Path, method: str) -> None:
    spec = layer(method=method)
    a = whole(tmp_path / "a", spec)
    assert to_the_end(tmp_path / "b", spec, lambda: after(3), lambda: lambda: False) == 1
    equal(a, tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"average": "ema"},
        {"average": "swa"},
        {"with": ["awp"]},
        {"attack_bn": "train"},
        {"select": {"every": 2, "n": 20}},
    ],
)
def test_whatever_surrounds_the_method_goes_on_too(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = layer(method="mmard", **changes)
    a, rng = whole(tmp_path / "a", spec), random.Random(1)
    # The final judging asks four times, so that fewer would never end.
    assert to_the_end(tmp_path / "b", spec, lambda: after(2), lambda: after(rng.randint(5, 6))) >= 2
    equal(a, tmp_path / "b")


def test_a_run_asked_to_stop_while_it_is_judged_goes_on_with_the_judging(tmp_path: Path) -> None:
    spec = layer(method="sat")
    a, b = whole(tmp_path / "a", spec), tmp_path / "b"
    asked: list[bool] = []
    training = rd.train(spec, out=b, stop=lambda: bool(asked))
    next(e for e in training if isinstance(e, Trained))
    asked.append(True)
    with pytest.raises(Stopped, match="stopped after 0 epochs and 4 steps; it is saved"):
        next(training)
    resumed = list(rd.resume(b))
    assert sum(isinstance(e, Trained) for e in resumed) == 1  # the second epoch's; the first was told before
    equal(a, b)


def test_a_run_need_be_asked_to_stop_only_once(tmp_path: Path) -> None:
    spec, asked = layer(method="sat"), count()
    a, b = whole(tmp_path / "a", spec), tmp_path / "b"
    with pytest.raises(Stopped, match="stopped after 0 epochs and 2 steps; it is saved"):
        list(rd.train(spec, out=b, stop=lambda: next(asked) == 1))
    list(rd.resume(b))
    equal(a, b)


def test_save_minutes_decides_how_often_a_run_is_saved(tmp_path: Path) -> None:
    events = list(rd.train(layer(method="nature", save_minutes=0), out=tmp_path / "a"))
    places = [(e.epoch, e.step) for e in events if isinstance(e, Saved)]
    assert places == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]
    assert len(find_names(tmp_path / "a")) <= 3
    seldom = list(rd.train(layer(method="nature"), out=tmp_path / "b"))
    assert [(e.epoch, e.step) for e in seldom if isinstance(e, Saved)] == [(1, 0), (2, 0)]
    equal_but_for_the_log = [(tmp_path / p / "result.json").read_text() for p in "ab"]
    assert equal_but_for_the_log[0] == equal_but_for_the_log[1]


def find_names(run: Path) -> list[str]:
    return [p.name for p in (run / "checkpoints").iterdir() if p.is_dir()]


def test_recorded_steps_go_on_as_well() -> None:
    spec = layer(method="mmard")
    one, two = (run_of(spec, Tapes()) for _ in range(2))
    list(loop.train(one.job, one.state))
    events = loop.train(two.job, two.state, after(6))
    next(e for e in events if isinstance(e, loop.Rest))
    kept = json_free(two.state.weights()), json_free(two.state.record())
    three = run_of(spec, Tapes())
    three.state.restore(*kept)
    assert (three.state.epoch, three.state.step) != (0, 0)
    list(loop.train(three.job, three.state))
    assert same(one.state.weights(), three.state.weights())
    assert same(one.state.record(), three.state.record())


def json_free(value: Any) -> Any:
    """A copy, as a checkpoint would hold it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: json_free(v) for k, v in value.items()}
    return [json_free(v) for v in value] if isinstance(value, list) else value


@pytest.mark.skipif(FAULTS < 10, reason="compiling takes a minute and more: make test-faults")
def test_compiled_steps_go_on_as_well(tmp_path: Path) -> None:
    spec = layer(method="mmard", mode="compile")
    a = whole(tmp_path / "a", spec)
    assert json.loads((a / "result.json").read_text())["execution"]["mode"] == "compile"
    assert to_the_end(tmp_path / "b", spec, lambda: after(3), lambda: lambda: False) == 1
    equal(a, tmp_path / "b")


# ---- signals ---------------------------------------------------------------------------------------------
def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "robustdistill", "train", *args]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_saves_the_run_within_a_step(tmp_path: Path, name: str, code: int) -> None:
    out = tmp_path / "run"
    line = command("--method", "sat", "--epochs", "500", "--out", str(out), "--set", "student.width=4")
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (out / "events.jsonl").exists() and '"stepped"' in (out / "events.jsonl").read_text())
        process.send_signal(getattr(signal, name))
        began = time.monotonic()
        said = process.communicate(timeout=60)[1]
        assert time.monotonic() - began < 20
    assert process.returncode == code
    assert f"go on with: robustdistill train --resume {out}" in said
    assert "Traceback" not in said
    assert not (out / "lock").exists()
    found = find_checkpoint(out).checkpoint
    assert found is not None
    assert found.meta["epoch"] * 11 + found.meta["step"] > 0


def wait_for(what: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


# ---- killed ----------------------------------------------------------------------------------------------
KILLED = layer(method="mmard", save_minutes=0)


def drive(out: str) -> None:
    torch.set_num_threads(1)
    path = Path(out)
    going = path.joinpath("spec.toml").exists()
    for _ in rd.resume(path, teacher=teacher()) if going else rd.train(KILLED, teacher=teacher(), out=path):
        pass


@pytest.mark.slow
def test_a_run_killed_at_random_points_ends_as_one_that_was_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["robustdistill.run", "test_stopping"])
    a, b, rng = tmp_path / "a", tmp_path / "b", random.Random(0)
    began = time.monotonic()
    child = context.Process(target=drive, args=(str(a),))
    child.start()
    child.join()
    assert child.exitcode == 0
    lasted = time.monotonic() - began
    kills = debris = runs = 0
    while kills < FAULTS:
        b = tmp_path / f"b{runs}"
        runs += 1
        for _ in range(100):
            child = context.Process(target=drive, args=(str(b),))
            child.start()
            child.join(rng.uniform(0, lasted) if kills < FAULTS else None)
            if child.exitcode is None:
                os.kill(child.pid or 0, signal.SIGKILL)
                child.join()
                kills += 1
                debris += any((b / "checkpoints").glob(".*"))
                if b.exists() and not (b / "spec.toml").exists():
                    b = tmp_path / f"b{runs}-{kills}"  # killed before there was a run: it is started elsewhere
                continue
            assert child.exitcode == 0
            break
        equal(a, b)
    print(f"{kills} kills, {debris} during a save, {runs} runs")


# ---- disks -----------------------------------------------------------------------------------------------
def test_a_limit_on_file_sizes_leaves_the_last_checkpoint_and_nothing_half_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = rd.train(layer(method="nature", save_minutes=0), out=out)
    next(e for e in training if isinstance(e, Saved))
    good = find_names(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            list(training)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert find_names(out) == good
    assert not list((out / "checkpoints").glob(".*"))
    assert isinstance(list(rd.resume(out))[-1], Finished)
    equal(whole(tmp_path / "a", layer(method="nature")), out)


DISK = """
import sys
sys.argv = ["robustdistill", *sys.argv[1:]]
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
from robustdistill.cli import main
main()
"""


@pytest.mark.slow
def test_the_command_line_says_so_and_ends_with_6(tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = [sys.executable, "-c", DISK, "train", "--method", "nature", "--epochs", "1", "--out", str(out)]
    done = subprocess.run([*line, "--set", "limit_batches=2"], capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert "limit on file sizes" in done.stderr
    assert "train --resume RUN" in done.stderr
    assert not (out / "lock").exists()


# ---- not finite ------------------------------------------------------------------------------------------
class Poisoned(Tiny):
    """In training its logits, or with `gradient` what they pass back, are not finite on the batches number `bad`."""

    def __init__(self, bad: set[int], gradient: bool = False) -> None:
        super().__init__()
        self.bad, self.gradient = bad, gradient
        self.calls: dict[float, int] = {}

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if not self.training or x.is_meta:
            return out
        # A function of the batch alone, as a step's is: taken again, it comes out as before.
        batch = self.calls.setdefault(round(float(x.double().sum()), 6), len(self.calls))
        if batch not in self.bad:
            return out
        if self.gradient:
            out.register_hook(lambda g: g * torch.inf)
        return out if self.gradient else out * torch.nan


def poisoned(student: Tiny, **changes: Any) -> Iterator[Event]:
    return rd.train(layer(method="nature", **changes), student=student)


@pytest.mark.parametrize(("gradient", "what"), [(False, "the loss is nan"), (True, "a gradient is not finite")])
def test_a_loss_that_is_not_finite_stops_before_the_update_and_is_recorded(
    tmp_path: Path, gradient: bool, what: str
) -> None:
    student, out = Poisoned({5}, gradient), tmp_path / "run"
    with pytest.raises(Diverged, match=what + r" at epoch 2, step 2: lower --lr .*nonfinite\.json"):
        list(rd.train(layer(method="nature"), student=student, out=out))
    assert all(bool(v.isfinite().all()) for v in student.state_dict().values())
    record = json.loads((out / "nonfinite.json").read_text())
    assert (record["epoch"], record["step"]) == (1, 2)
    assert len(set(record["ids"])) == len(record["labels"]) == len(record["losses"]) == 16
    assert record["finite"] == {"x": True, "x_adv": True, "loss": gradient}
    assert ("nan" in record["losses"]) is not gradient
    assert record["gradients_not_finite"]["count"] > 0
    found = find_checkpoint(out).checkpoint
    assert found is not None
    assert found.meta["epoch"] == 1


def test_the_state_is_that_before_the_step_at_fault() -> None:
    good, bad = Poisoned(set()), Poisoned({2})
    healthy = poisoned(good, limit_batches=2, epochs=1)
    list(healthy)
    with pytest.raises(Diverged):
        list(poisoned(bad, limit_batches=4, epochs=1))
    assert same(dict(good.state_dict()), dict(bad.state_dict()))


def test_steps_may_be_left_out_but_not_many_in_a_row() -> None:
    events = list(poisoned(Poisoned({1, 2, 6}), on_nonfinite="skip"))
    warned = [e.message for e in events if isinstance(e, Warned) and "left out" in e.message]
    assert len(warned) == 3
    assert "2 in a row, 3 may be" in warned[1]
    with pytest.raises(Diverged, match="in 4 steps in a row"):
        list(poisoned(Poisoned({1, 2, 3, 4}), on_nonfinite="skip"))
