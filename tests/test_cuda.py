"""On a GPU: recorded CUDA graphs do what the readable step does, draw what it draws, and never wait for the host."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from doings import CASES, prepared, taken, told
from ranks import doing
from robustdistill.engine.recording import CudaGraphs
from robustdistill.prepare import Run
from robustdistill.registry import default_registry
from runs import distance, run_of, steps_of, take, train
from test_run import same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
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
        torch.cuda.synchronize()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls the mode a prototype
                torch.cuda.set_sync_debug_mode("error")
            for i, p in enumerate(picks):
                run.job.steps.take(p, 1, i)
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
