"""A replayed step does what the readable one does, for every pair; and what a replay would freeze is found."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from games import game
from robustdistill.engine import tape
from robustdistill.engine.step import MinMax, min_max
from robustdistill.engine.steps import WARM_STEPS
from robustdistill.engine.tape import Tapes
from robustdistill.logits import Logits
from robustdistill.losses import ce, kl
from robustdistill.recording import CudaGraphs, changes, marks
from robustdistill.registry import default_registry
from runs import distance, run_of, steps_of, take, train

INNER, OUTER = (default_registry().names(kind) for kind in ("inner", "outer"))
MODIFIERS = default_registry().names("modifier")
TOLERANCE = 1e-5


def differs(layer: dict[str, Any], make: Any = None, n: int = 6, epochs: tuple[int, ...] = (0, 2)) -> float:
    """How far a run ends from the same run recorded, by weights; `make()` gives each a game of its own."""
    eager, replayed = (run_of(layer, recorder, make and make()) for recorder in (None, Tapes()))
    losses = [train(run, n, epochs) for run in (eager, replayed)]
    assert steps_of(replayed)._recording, steps_of(replayed).notes
    assert torch.isfinite(losses[0]).all()
    return distance(replayed.state.student, eager.state.student)


# ---- equality ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("inner", "outer"), list(itertools.product(INNER, OUTER)))
def test_every_pair_replays_as_it_runs(inner: str, outer: str) -> None:
    assert differs({"inner": inner, "outer": outer}) <= TOLERANCE


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_every_modifier_replays_as_it_runs(modifier: str) -> None:
    assert differs({"method": "mmard", "with": [modifier]}) <= TOLERANCE


@pytest.mark.parametrize(
    "layer",
    [
        {"attack_bn": "train"},
        {"attack_bn": "train_frozen_stats"},
        {"precision": "bf16"},
        {"precision": "fp64"},
        {"attack": {"name": "pgd", "start": "uniform"}},
        {"average": {"name": "ema"}},
        {"method": "mtard@official"},  # its weights move every step
        {"method": "iad@official"},
    ],
    ids=str,
)
def test_every_setting_replays_as_it_runs(layer: dict[str, Any]) -> None:
    assert differs({"method": "mmard", **layer}, n=5) <= TOLERANCE


def test_whole_epochs_replay_with_their_last_smaller_batch() -> None:
    layer = {"method": "rslad", "batch_size": 100}
    eager, replayed = run_of(layer), run_of(layer, Tapes())
    for epoch in (0, 1):
        for a, b in zip(take(eager, epoch), take(replayed, epoch), strict=True):
            assert torch.equal(a, b)
    assert len(steps_of(eager).batches) == 13  # 1,257 images
    assert distance(replayed.state.student, eager.state.student) <= TOLERANCE


class Dropping(nn.Module):
    """SAT's outer objective on randomly dropped logits: draws from torch's global generator."""

    def forward(self, z: Logits) -> Tensor:
        return ce(nn.functional.dropout(z.s_adv, 0.5), z.y)


def with_outer(outer: Any) -> MinMax:
    sat = game({"method": "sat"})
    return min_max(sat.inner, outer, sat.attack)


def test_global_randomness_is_seeded_step_by_step() -> None:
    assert differs({"method": "sat"}, lambda: with_outer(Dropping())) <= TOLERANCE


class Counting(nn.Module):
    """A weight that grows with each step: state as the contract asks for it, in a buffer, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()))

    def forward(self, z: Logits) -> Tensor:
        self.weight.add_(0.5)
        return self.weight * ce(z.s_adv, z.y)


def test_state_in_place_replays_as_it_runs() -> None:
    assert differs({"method": "sat"}, lambda: with_outer(Counting())) <= TOLERANCE


class Ramped(nn.Module):
    """Weights by the clock, as device scalars."""

    def forward(self, z: Logits) -> Tensor:
        return (0.1 + z.progress + z.epoch) * ce(z.s_adv, z.y)


def test_the_clock_moves_under_replay() -> None:
    assert differs({"method": "sat"}, lambda: with_outer(Ramped())) <= TOLERANCE


# ---- planted defects: what a replay freezes ---------------------------------------------------------------
class Rebinding(Counting):
    def forward(self, z: Logits) -> Tensor:
        self.weight = self.weight + 0.5
        return self.weight * ce(z.s_adv, z.y)


class CountingOnTheHost(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, z: Logits) -> Tensor:
        self.calls += 1
        return self.calls * ce(z.s_adv, z.y)


class KeepingAHistory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.past: dict[str, list[Tensor]] = {"losses": []}

    def forward(self, z: Logits) -> Tensor:
        loss = ce(z.s_adv, z.y)
        self.past["losses"].append(loss.detach())
        return loss * len(self.past["losses"])


@pytest.mark.parametrize(
    ("unit", "named"),
    [(Rebinding, "Rebinding.weight"), (CountingOnTheHost, "CountingOnTheHost.calls"), (KeepingAHistory, "y.past")],
)
def test_state_that_a_replay_would_freeze_is_found_and_the_run_stays_right(unit: type[nn.Module], named: str) -> None:
    eager, asked = (run_of({"method": "sat"}, recorder, with_outer(unit())) for recorder in (None, Tapes()))
    train(eager)
    train(asked)
    (note,) = steps_of(asked).notes
    assert named in note
    assert "would freeze" in note
    assert "goes on in mode eager" in note
    assert steps_of(asked)._recording is None
    assert distance(asked.state.student, eager.state.student) == 0


def test_that_state_would_have_been_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdistill.engine.steps.changes", lambda before, after: [])
    for unit in (Rebinding, CountingOnTheHost, KeepingAHistory):
        assert differs({"method": "sat"}, lambda unit=unit: with_outer(unit())) > 100 * TOLERANCE


def frozen_progress() -> MinMax:
    # numpy reads the clock behind the recorder's back
    return with_outer(lambda z: (0.1 + int(z.epoch.numpy())) * ce(z.s_adv, z.y))


def test_a_frozen_clock_is_caught() -> None:
    assert differs({"method": "sat"}, frozen_progress) > 100 * TOLERANCE


def test_a_stale_memo_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, replayed = run_of({"method": "rslad"}), run_of({"method": "rslad"}, Tapes())
    train(eager)
    memos: list[Any] = []

    def logits(*args: Any, **kwargs: Any) -> Logits:
        z = Logits(*args, **kwargs)
        if len(memos) == WARM_STEPS:
            z._batch = memos[-1]  # T(x) of the batch before, kept too long
        memos.append(z._batch)
        return z

    monkeypatch.setattr("robustdistill.engine.steps.Logits", logits)
    train(replayed)
    assert steps_of(replayed)._recording
    assert distance(replayed.state.student, eager.state.student) > 100 * TOLERANCE


def test_a_frozen_learning_rate_is_caught() -> None:
    def host_rates(run: Any) -> Any:
        for group in run.state.optimizer.param_groups:
            group["fused"], group["lr"] = False, float(group["lr"])
        return run

    eager, replayed = run_of({"method": "sat"}), host_rates(run_of({"method": "sat"}, Tapes()))
    for run in (eager, replayed):
        for epoch in (0, 3):
            for group in run.state.optimizer.param_groups:
                rate = run.job.lr(epoch)
                group["lr"] = rate if isinstance(group["lr"], float) else group["lr"].fill_(rate)
            steps_of(run).begin(epoch)
            for i, picks in enumerate(itertools.islice(steps_of(run).batches.picks(epoch), 6)):
                steps_of(run).take(picks, epoch, i)
    assert steps_of(replayed)._recording
    assert distance(replayed.state.student, eager.state.student) > 100 * TOLERANCE


# ---- what cannot be recorded, stages, marks ---------------------------------------------------------------
def test_what_asks_the_host_is_not_recorded_and_runs_on() -> None:
    def asks(z: Logits) -> Tensor:
        loss = ce(z.s_adv, z.y)
        return loss * float(loss.detach().mean())

    eager, asked = run_of({}, None, with_outer(asks)), run_of({}, Tapes(), with_outer(asks))
    assert torch.equal(train(eager), train(asked))
    (note,) = steps_of(asked).notes
    assert "cannot be recorded" in note
    assert "asks the host" in note
    assert distance(asked.state.student, eager.state.student) == 0


class Staged(nn.Module):
    """Changes its formula after the first epoch, by a plain value: known to the host, and only between epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = 0

    def end_epoch(self) -> None:
        self.stage += 1

    def forward(self, z: Logits) -> Tensor:
        return ce(z.s_adv, z.y) if self.stage == 0 else kl(z.s_adv, z.t)


def test_a_stage_that_the_host_knows_is_recorded_anew() -> None:
    eager, replayed = (run_of({"batch_size": 200}, r, with_outer(Staged())) for r in (None, Tapes()))
    for epoch in (0, 1, 2):
        for a, b in zip(take(eager, epoch), take(replayed, epoch), strict=True):
            assert torch.equal(a, b)
    assert steps_of(replayed)._recording
    assert not steps_of(replayed).notes


def test_marks_see_values_and_memory_and_not_contents() -> None:
    unit = Counting()
    before = marks(unit)
    unit.weight.add_(1)
    unit.eval()
    assert not changes(before, marks(unit))
    unit.stage = "second"  # type: ignore[assignment]
    unit.weight = unit.weight.clone()
    assert sorted(changes(before, marks(unit))) == ["Counting.stage", "Counting.weight"]


# ---- CUDA graphs ------------------------------------------------------------------------------------------
METHODS = [{"method": name} for name in default_registry().names("method")]
DYNAMIC = {"method": "mtard", "outer": {"name": "mtard", "dynamic": True}}


@pytest.mark.parametrize("layer", [*METHODS, {"method": "mtard@official"}, DYNAMIC], ids=str)
def test_no_number_is_brought_from_the_host(layer: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor made of Python's numbers is a copy to the GPU, for which the host waits and which nothing can record."""
    monkeypatch.setattr(tape, "ASKS_THE_HOST", tape.ASKS_THE_HOST | {"aten::lift_fresh"})
    assert differs(layer, n=4, epochs=(0,)) <= TOLERANCE


class Cuda:
    """What a recording uses of torch.cuda: streams by name, and graphs whose end fails once something in them has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.ended = "outside", 0
        for name in ("graph", "device", "current_stream", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "side")
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
        monkeypatch.setattr(torch, "zeros", lambda n, device: None)  # there is no such device here

    def device(self, device: torch.device) -> AbstractContextManager[None]:
        return nullcontext()

    def current_stream(self, device: torch.device) -> str:
        return self.stream

    def set_stream(self, stream: str) -> None:
        self.stream = stream

    @contextmanager
    def graph(self, graph: Any, stream: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        except Exception:
            raise RuntimeError("operation failed due to a previous error during capture") from None
        self.stream, self.ended = before, self.ended + 1


def test_a_recording_that_fails_says_why_and_leaves_cuda_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)

    def asks() -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraphs(torch.device("cuda:1")).record(asks, [])
    assert cuda.stream == "outside"
    assert cuda.ended == 1  # another recording has ended well, which frees the device's own generator


def test_a_recording_that_fails_leaves_its_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is taken again without it, and needs that memory: nothing may wait for the garbage collector."""
    Cuda(monkeypatch)
    kept: list[weakref.ref[Tensor]] = []

    def too_large() -> Tensor:
        half = torch.ones(4)
        kept.append(weakref.ref(half))
        raise torch.OutOfMemoryError("none left")

    gc.disable()
    try:
        with suppress(torch.OutOfMemoryError):
            CudaGraphs(torch.device("cuda:1")).record(too_large, [])
        assert kept[0]() is None
    finally:
        gc.enable()
