"""AutoAttack's steps recorded and replayed: the same finds, and no recording that is not the step."""

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Generator, Tensor

from games import Tiny, images
from robustdistill.engine.tape import Tapes
from robustdistill.errors import UserError
from robustdistill.evaluation.autoattack import projection, standard
from robustdistill.evaluation.autoattack.replay import REPAID, Loop
from robustdistill.evaluation.autoattack.standard import STANDARD, Part, autoattack
from robustdistill.evaluation.autoattack.wave import Wave
from robustdistill.logits import Forward
from robustdistill.recording import Recording
from scripts import script

SHORT: tuple[Part, ...] = script("autoattack").shortened(70, 200)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where FAB-T's projection reads nothing back."""
    monkeypatch.setattr(projection, "_at_rest", lambda new, old: False)


class Counted:
    """Tapes, and how many there were; `fails` are the numbers of those that run out of memory."""

    def __init__(self, *fails: int) -> None:
        self.tapes, self.made, self.fails = Tapes(), 0, fails

    def warm(self) -> AbstractContextManager[None]:
        return self.tapes.warm()

    def record(self, function: Callable[[], Tensor], generators: Sequence[Generator]) -> Recording:
        self.made += 1
        if self.made in self.fails:
            raise torch.OutOfMemoryError("none left")
        return self.tapes.record(function, generators)


def wave(forward: Forward | None = None, loop: Loop | None = None, n: int = 24) -> Wave:
    net, (x, other) = Tiny().eval().requires_grad_(False), images(n)
    y = torch.where(torch.arange(n) % 10 == 9, other, net(x).argmax(1))
    return Wave(forward or net, x, y, 0.02, (10, n - 10), physical=16, loop=loop or Loop())


def found(part: Part, given: Wave) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return part.run(given, **part.params)


# ---- the attacks ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", SHORT, ids=lambda part: part.name)
def test_a_recorded_attack_finds_what_it_finds_step_by_step(part: Part) -> None:
    recorder = Counted()
    loop = Loop(recorder)
    broken, x_adv = found(part, wave())
    again, x_again = found(part, wave(loop=loop))
    assert recorder.made
    assert not loop.why
    assert 0 < int(broken.sum()) < len(broken)
    assert torch.equal(again, broken)
    assert torch.equal(x_again, x_adv)


def test_an_ensemble_records_its_steps() -> None:
    at, recorder = wave(), Counted()
    how: dict[str, Any] = {"eps": at.eps, "attacks": SHORT, "logical_batch": 10}
    plain = autoattack(at.forward, at.x, at.y, **how)
    recorded = autoattack(at.forward, at.x, at.y, loop=Loop(recorder), **how)
    assert recorder.made >= len(SHORT)
    assert torch.equal(recorded.x_adv, plain.x_adv)
    assert [s.correct.tolist() for s in recorded.stages] == [s.correct.tolist() for s in plain.stages]


def test_square_records_once_for_all_stretches_of_a_shape() -> None:
    recorder, steady = Counted(), wave()
    right = steady.forward(steady.x).argmax(1)
    found(SHORT[3], replace(steady, y=right, eps=1e-6, physical=40, loop=Loop(recorder)))
    assert recorder.made == 1


def test_what_keeps_the_device_busy_is_not_recorded() -> None:
    recorder = Counted()
    loop = Loop(recorder, finish=lambda: time.sleep(0.2))
    assert torch.equal(found(SHORT[0], wave(loop=loop, n=16))[1], found(SHORT[0], wave(n=16))[1])
    assert not recorder.made
    assert not loop.why


def test_python_that_waits_for_room_in_the_queue_is_not_taken_for_slow() -> None:
    recorder, taken = Counted(), itertools.count()

    def step(s: Pair, add: Tensor) -> Pair:
        time.sleep(0.01 * (next(taken) >= 2))  # launches wait, since the device has enough to do
        return crossed(0.5, s, add)

    loop, pair = Loop(recorder, finish=lambda: time.sleep(0.05)), Pair(torch.ones(3), torch.ones(3))
    for n in (REPAID - 1, REPAID):
        loop.advance(partial(step), pair, n, torch.rand(n, 3))
    assert not recorder.made


# ---- what cannot be recorded -----------------------------------------------------------------------------------
class Counting:
    """A forward with a host's counter in it, which a recording would freeze."""

    def __init__(self, forward: Forward) -> None:
        self.forward, self.calls = forward, 0

    def __call__(self, v: Tensor) -> Tensor:
        self.calls += 1
        return self.forward(v) + 1e-3 * self.calls * v.flatten(1).mean(1, keepdim=True)


def asking(forward: Forward, v: Tensor) -> Tensor:
    out = forward(v)
    return out * (1.0 if float(out.detach().sum()) else 2.0)


@pytest.mark.parametrize("part", SHORT, ids=lambda part: part.name)
@pytest.mark.parametrize(
    ("change", "why"), [(Counting, "does not repeat"), (lambda f: partial(asking, f), "asks the host")]
)
def test_what_cannot_be_recorded_is_taken_step_by_step(part: Part, change: Any, why: str) -> None:
    loop, net = Loop(Counted()), wave().forward
    broken, x_adv = found(part, wave(change(net), loop))
    assert why in loop.why
    assert not standard._right(net, x_adv[broken], wave().y[broken], 250).any() or change is Counting
    if change is not Counting:  # it sees another number of calls
        assert torch.equal(x_adv, found(part, wave(change(net)))[1])


def test_a_recording_without_memory_is_done_without() -> None:
    for fails in (1, 2):
        loop = Loop(Counted(fails))
        assert torch.equal(found(SHORT[1], wave(loop=loop))[1], found(SHORT[1], wave())[1])
        assert "none left" in loop.why


def test_what_is_wrong_with_the_network_is_still_said() -> None:
    def cut(v: Tensor) -> Tensor:
        return net(v.detach())

    net = wave().forward
    with pytest.raises(UserError, match="no gradient"):
        found(SHORT[0], wave(cut, Loop(Counted())))


# ---- the loop ----------------------------------------------------------------------------------------------------
class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def crossed(by: float, s: Pair, add: Tensor) -> Pair:
    """The next a is b itself, and the next b is new: what lies in one place moves to another."""
    return Pair(s.b, s.a * by + add)


@pytest.mark.parametrize("n", [1, REPAID - 1, REPAID, 3 * REPAID])
def test_tensors_that_change_places(n: int) -> None:
    start, feeds = Pair(torch.ones(3), torch.arange(3.0)), torch.rand(n, 3)
    expected, recorder = start, Counted()
    for add in feeds:
        expected = crossed(0.5, expected, add)
    result = Loop(recorder).advance(partial(crossed, 0.5), start, n, feeds)
    assert all(map(torch.equal, result, expected))
    assert recorder.made == (n >= REPAID)
    assert torch.equal(start.a, torch.ones(3))  # what was given stays


def test_pieces_of_a_stretch_go_on_from_what_came_back() -> None:
    recorder = Counted()
    loop, plain = Loop(recorder), Loop()
    feeds = torch.rand(9, 3)
    states = [Pair(torch.ones(3), torch.arange(3.0))] * 2
    for first in (0, 3, 6):
        part = feeds[first : first + 3]
        states = [
            way.advance(partial(crossed, 0.5), s, 3, part, ahead=REPAID)
            for way, s in zip((loop, plain), states, strict=True)
        ]
        states = [Pair(s.b, s.a) for s in states]  # a check between them, that swaps the places
    assert all(map(torch.equal, *states))
    assert recorder.made == 1


def test_another_step_or_shape_is_recorded_anew() -> None:
    recorder = Counted()
    loop = Loop(recorder)
    for by, size, many in ((0.5, 3, 1), (0.5, 3, 1), (0.25, 3, 1), (0.25, 4, 1), (0.5, 3, 1), (0.5, 3, 3)):
        feeds = torch.rand(REPAID, size)[:, :many]
        start = Pair(torch.ones(size), torch.zeros(size))
        result = loop.advance(partial(crossed, by), start, REPAID, feeds)
        expected = Loop().advance(partial(crossed, by), start, REPAID, feeds)
        assert all(map(torch.equal, result, expected))
    assert recorder.made == 5
    assert not loop.why


def test_a_step_that_needs_the_memory_of_a_recording_gets_it() -> None:
    loop, feeds, start = Loop(Counted()), torch.rand(REPAID, 3), Pair(torch.ones(3), torch.arange(3.0))

    def step(s: Pair, add: Tensor) -> Pair:
        if short and loop._made:
            raise torch.OutOfMemoryError("none left")
        return crossed(0.5, s, add)

    short = False
    before = loop.advance(partial(step), start, REPAID, feeds)
    assert loop._made
    short = True
    expected = Loop().advance(partial(crossed, 0.5), before, 3, feeds)
    assert all(map(torch.equal, loop.advance(partial(step), before, 3, feeds), expected))
    assert not loop.why
    with pytest.raises(torch.OutOfMemoryError):  # where there is no recording to be given up
        Loop().advance(partial(_none_left), start, 3, feeds)


def _none_left(s: Pair, add: Tensor) -> Pair:
    raise torch.OutOfMemoryError("none left")


# ---- a search in a shorter format --------------------------------------------------------------------------------
class Hasty:
    """A network that takes images near its boundary for wrong while the search is on."""

    def __init__(self, forward: Forward) -> None:
        self.forward, self.on = forward, False

    def __call__(self, v: Tensor) -> Tensor:
        out = self.forward(v)
        top = out.topk(2, dim=1)
        hasty = torch.zeros_like(out).scatter(1, top.indices[:, 1:], 0.03)
        return out + hasty if self.on else out

    def quick(self, device: torch.device) -> Any:
        return self

    def __enter__(self) -> bool:
        self.on = True
        return True

    def __exit__(self, *_: Any) -> None:
        self.on = False


def test_what_float32_denies_is_attacked_again_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    at = wave(n=40)
    how: dict[str, Any] = {"eps": at.eps, "attacks": SHORT, "logical_batch": 16}
    exact, hasty = autoattack(at.forward, at.x, at.y, **how), Hasty(at.forward)
    again, of = list[int](), Wave.of
    monkeypatch.setattr(Wave, "of", lambda self, rows: (again.append(len(rows)), of(self, rows))[1])
    monkeypatch.setattr(standard, "quick_convolutions", hasty.quick)
    found = autoattack(hasty, at.x, at.y, **how)
    assert sum(again) >= 3
    assert not found.notes
    assert torch.equal(found.stages[0].correct, exact.stages[0].correct)  # the clean accuracy is not searched for
    assert torch.equal(found.correct, exact.correct)


def test_a_part_of_a_wave_keeps_its_logical_batches() -> None:
    rows = torch.tensor([0, 3, 15, 16, 39])
    all_of_them = replace(wave(n=40), sizes=(16, 10, 14))
    few = all_of_them.of(rows)
    assert few.sizes == (3, 1, 1)
    assert torch.equal(few.x, all_of_them.x[rows])
    assert torch.equal(few.y, all_of_them.y[rows])
    assert few.batch().tolist() == [0, 0, 0, 1, 2]
    assert STANDARD[0].run(few, steps=2)[1].shape == few.x.shape
