"""Compiled networks: the same step, and the plain networks where the compiler fails."""

import shutil
from typing import Any

import pytest
import torch

from games import Tiny
from robustdistill.engine.forwards import Compiler
from runs import distance, run_of, steps_of, train


@pytest.mark.slow
def test_a_compiled_step_is_the_plain_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("compiling for a CPU needs a C++ compiler and there is none")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    layer = {"method": "rslad", "precision": "fp64", "batch_size": 64}
    eager, compiled = run_of(layer), run_of({**layer, "mode": "compile"})
    assert str(compiled.execution) == "compile fp64"
    losses = [train(run, 2) for run in (eager, compiled)]
    assert not steps_of(compiled).notes
    assert torch.allclose(*losses, rtol=1e-9)
    assert distance(compiled.state.student, eager.state.student) < 1e-9
    assert list(compiled.state.student.state_dict()) == list(eager.state.student.state_dict())


class Broken:
    """A compiler whose networks fail when they are first called, after having moved their BatchNorm."""

    def __call__(self, network: Tiny, dynamic: bool) -> Any:
        def forward(v: torch.Tensor) -> torch.Tensor:
            network(v)
            raise RuntimeError("no C++ compiler\nand a long story")

        return forward


def test_a_compiler_that_fails_leaves_the_run_as_it_was_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Broken())
    eager, compiled = run_of({"method": "rslad"}), run_of({"method": "rslad", "mode": "compile"})
    assert torch.equal(train(eager), train(compiled))
    (note,) = steps_of(compiled).notes
    assert note == "the networks cannot be compiled and run as they are: RuntimeError: no C++ compiler"
    assert distance(compiled.state.student, eager.state.student) == 0


def test_running_out_of_memory_is_no_reason_to_run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(network: Tiny, dynamic: bool) -> Any:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(torch, "compile", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        train(run_of({"mode": "compile"}), 1)


def test_an_error_of_the_method_is_the_method_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    run = run_of({"method": "sat", "mode": "compile"})

    def broken(z: Any) -> Any:
        raise ValueError("of the plugin")

    steps_of(run).game = type(steps_of(run).game)(**{**vars(steps_of(run).game), "outer": broken})
    with pytest.raises(ValueError, match="of the plugin"):
        train(run, 1)


def test_judging_is_compiled_with_the_steps_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()

    def fake(network: Tiny, dynamic: bool) -> Any:
        def forward(v: torch.Tensor) -> torch.Tensor:
            sizes.add(len(v))
            assert v.requires_grad
            return network(v)

        return forward

    monkeypatch.setattr(torch, "compile", fake)
    run, plain = run_of({"method": "nature", "mode": "compile"}), run_of({"method": "nature"})
    clean, robust = run.job.judge.accuracy(run.state.student)
    assert sizes == {32}
    assert clean == plain.job.judge.accuracy(plain.state.student)[0]
    assert 0 <= robust <= clean


def test_a_run_that_is_only_prepared_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", None)
    run = run_of({"method": "mmard", "mode": "compile"})
    assert run.execution.compiled
    assert isinstance(steps_of(run).compiler, Compiler)
