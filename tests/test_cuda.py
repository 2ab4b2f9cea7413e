"""On a GPU: recorded CUDA graphs do what the readable step does, draw what it draws, and never wait for the host."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from doings import CASES, prepared, taken, told
from ranks import doing
from robustdistill.arithmetic import true_float32
from robustdistill.evaluation.autoattack.replay import Loop, S, loop_on
from robustdistill.evaluation.autoattack.standard import Part, autoattack
from robustdistill.evaluation.autoattack.wave import Wave
from robustdistill.prepare import Run
from robustdistill.recording import CudaGraphs
from robustdistill.registry import default_registry
from robustdistill.targets import find_target
from runs import distance, run_of, steps_of, take, train
from test_replay import SHORT, found, wave
from test_run import same

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:TensorFloat32"),  # some torch's advice where it compiles without TF32
]
METHODS = default_registry().names("method")
MODIFIERS = default_registry().names("modifier")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Deterministic kernels without TF32, so that two runs of one step are equal."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def gpu(layer: Mapping[str, Any], mode: str = "eager") -> Run:
    run = run_of({"device": "cuda", "mode": "eager", **layer})
    run.job.steps.recorder = CudaGraphs(run.device) if mode == "graph" else None
    return run


@pytest.mark.parametrize("method", METHODS)
def test_graph_equals_eager(method: str) -> None:
    eager, graph = gpu({"method": method}), gpu({"method": method}, "graph")
    losses = [train(run) for run in (eager, graph)]
    assert steps_of(graph)._recording, steps_of(graph).notes
    assert torch.allclose(*losses, rtol=1e-5)
    assert distance(graph.state.student, eager.state.student) < 1e-5


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_modifiers_are_recorded(modifier: str) -> None:
    eager, graph = (gpu({"method": "sat", "with": [modifier]}, mode) for mode in ("eager", "graph"))
    losses = [train(run) for run in (eager, graph)]
    assert torch.allclose(*losses, rtol=1e-5)
    assert distance(graph.state.student, eager.state.student) < 1e-5


def test_bf16_is_recorded() -> None:
    eager, graph = (gpu({"method": "mmard", "precision": "bf16"}, mode) for mode in ("eager", "graph"))
    losses = [train(run) for run in (eager, graph)]
    assert steps_of(graph)._recording
    assert torch.allclose(*losses, rtol=1e-3)


def test_noise_under_replay_is_the_noise_of_the_step() -> None:
    layer = {"method": "sat", "attack": {"steps": 0, "start": "uniform"}}
    eager, graph = gpu(layer), gpu(layer, "graph")
    assert torch.allclose(train(eager), train(graph), rtol=1e-6)


def test_a_step_never_waits_for_the_host() -> None:
    for layer in ({"method": "mmard"}, {"method": "sat", "with": ["awp"]}, {"method": "rslad", "precision": "bf16"}):
        run = gpu(layer)
        train(run, 2, (0,))
        picks = [p.clone() for p in run.job.steps.batches.picks(1)][:2]
        with no_waiting():
            for i, p in enumerate(picks):
                run.job.steps.take(p, 1, i)


@contextmanager
def no_waiting() -> Iterator[None]:
    """RuntimeError where the host waits for the device."""
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the mode a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_do_what_one_does(tmp_path: Path) -> None:
    one, two = doing("gpus", tmp_path)
    for case in CASES:
        assert same(one[case], two[case])
        alone = told(run := prepared(case, device="cuda"), taken(run))
        assert all(torch.allclose(alone[k].cpu().double(), one[case][k].double(), rtol=1e-4, atol=1e-8) for k in alone)


def test_what_cannot_be_recorded_goes_on_and_random_numbers_still_come() -> None:
    def asks(z: Any) -> Any:
        loss = steps_of(plain).game.outer(z)
        return loss * float(loss.detach().mean())

    plain, eager, asked = gpu({"method": "sat"}), gpu({"method": "sat"}), gpu({"method": "sat"}, "graph")
    for run in (eager, asked):
        game = steps_of(run).game
        steps_of(run).game = type(game)(**{**vars(game), "outer": asks})
    losses = [train(run) for run in (eager, asked)]
    assert "cannot be recorded" in steps_of(asked).notes[0]
    assert torch.allclose(*losses, rtol=1e-5)
    assert torch.rand(4, device="cuda").isfinite().all()


def test_a_smaller_last_batch_and_a_resumed_epoch() -> None:
    layer = {"method": "rslad", "batch_size": 100}
    eager, graph = gpu(layer), gpu(layer, "graph")
    for epoch in (0, 1):
        losses = [torch.stack(list(take(run, epoch))) for run in (eager, graph)]
        assert torch.allclose(*losses, rtol=1e-4)


def test_compiled_and_recorded_agrees_with_eager() -> None:
    eager, graph = gpu({"method": "rslad"}), gpu({"method": "rslad", "mode": "graph"}, "graph")
    losses = [train(run, 5, (0,)) for run in (eager, graph)]
    assert steps_of(graph)._recording, steps_of(graph).notes
    assert graph.execution.compiled
    assert steps_of(graph).compiler.enabled
    assert not steps_of(graph).notes
    assert torch.allclose(*losses, rtol=1e-3)


SPEC = """
import sys
from itertools import count
import robustdistill as rd
from robustdistill.errors import Stopped
spec = {"method": "mmard", "epochs": 2, "limit_batches": 8, "batch_size": 32, "select": {"n": 40}, "device": "cuda"}
spec |= {"deterministic": True, "mode": sys.argv[3]}
list(rd.train(spec, out=sys.argv[1]))
"""
TWICE = SPEC + "list(rd.train(spec, out=sys.argv[2]))"
STOPPED = (
    SPEC
    + """
asked = count()
try:
    list(rd.train(spec, out=sys.argv[2], stop=lambda: next(asked) == 4))
    sys.exit("it did not stop")
except Stopped:
    list(rd.resume(sys.argv[2]))
"""
)


def both(script: str, mode: str, folder: Path) -> list[bytes]:
    """What two runs of a script end with. In a process of its own: cuBLAS takes its workspace when CUDA starts."""
    env = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    outs = [folder / "one", folder / "two"]
    done = subprocess.run(
        [sys.executable, "-c", script, *outs, mode], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(out / "result.json").read_bytes() for out in outs]


@pytest.mark.parametrize("mode", ["eager", "graph", "compile"])
def test_the_same_run_twice_with_deterministic_kernels(tmp_path: Path, mode: str) -> None:
    one, two = both(TWICE, mode, tmp_path)
    assert one == two


@pytest.mark.parametrize("mode", ["eager", "graph", "compile"])
def test_a_run_stopped_within_an_epoch_ends_as_one_that_was_not(tmp_path: Path, mode: str) -> None:
    one, two = both(STOPPED, mode, tmp_path)
    assert one == two


# ---- AutoAttack -----------------------------------------------------------------------------------------------
def wave_there(loop: Loop) -> Wave:
    at = wave(loop=loop)
    assert isinstance(at.forward, nn.Module)
    return replace(at, forward=at.forward.cuda(), x=at.x.cuda(), y=at.y.cuda())


class Unwaiting(Loop):
    """Steps that must not wait for the device."""

    def advance(self, step: "partial[S]", state: S, n: int, *feeds: Tensor, ahead: int = 0) -> S:
        with no_waiting():
            return super().advance(step, state, n, *feeds, ahead=ahead)


@pytest.mark.parametrize("part", SHORT, ids=lambda part: part.name)
def test_a_recorded_attack_finds_what_it_finds_step_by_step(part: Part) -> None:
    loop = loop_on(torch.device("cuda"))
    broken, x_adv = found(part, wave_there(Unwaiting()))
    again, x_again = found(part, wave_there(loop))
    assert not loop.why
    assert loop._made
    assert torch.equal(again, broken)
    assert torch.equal(x_again, x_adv)


def test_a_search_in_tf32_comes_to_the_verdicts_of_float32() -> None:
    registry = default_registry()
    net = find_target("digits-robust", registry, None, None).network.eval().requires_grad_(False).cuda()
    test = registry.get("dataset", "digits").load(None).test
    x, y = test.images[:120].cuda(), test.labels[:120].cuda()
    outcomes = []
    for tf32 in (False, True):
        with torch.backends.cudnn.flags(allow_tf32=tf32), true_float32():
            outcomes.append(autoattack(net, x, y, eps=0.2, attacks=SHORT))
    exact, quick = outcomes
    assert torch.equal(quick.stages[0].correct, exact.stages[0].correct)
    assert int((quick.correct != exact.correct).sum()) <= 1
    assert not quick.notes
    with torch.no_grad(), true_float32():
        assert torch.equal((net(quick.x_adv).argmax(1) == y).cpu(), quick.correct)
