"""Many steps of one shape: taken one by one, or recorded once and replayed by the device alone.

A GPU computes a small network, or few images, sooner than Python launches it; a replay launches nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from robustdistill.recording import CudaGraphs, Recorder, first_line

S = TypeVar("S", bound=tuple[Tensor, ...])

REPAID, TIMED, WAITING = 32, 4, 0.7
"""Steps that repay a recording; those of a row in which one is timed; the part of its time in Python at which the
device waits."""


class Loop:
    """Takes steps. With a `recorder` long rows of them are recorded; what cannot be recorded is taken one by one.

    So is what keeps the device busy anyway: `finish` waits for it, and shorter rows before have told. A recording is
    used only if its first step gives, to the bit, what the step itself gives; `why` says what stood against it.
    """

    def __init__(self, recorder: Recorder | None = None, finish: Callable[[], None] = lambda: None) -> None:
        self.why = ""
        self._recorder, self._finish, self._waiting = recorder, finish, True
        self._made: _Made | None = None

    def advance(self, step: "partial[S]", state: S, n: int, *feeds: Tensor, ahead: int = 0) -> S:
        """state <- step(state, *(f[i] for f in feeds)), i = 0 .. n-1. `ahead`: n, with what follows in this shape.

        `step` changes nothing in place and asks the host for nothing; `state` is a NamedTuple. What comes back may be
        overwritten when further steps are taken.
        """
        if self._recorder and self._waiting and max(n, ahead) >= REPAID:
            try:
                return self._replayed(self._recorder, step, state, n, feeds)
            except Exception as error:  # if it is not the recorder's, the plain step raises it again
                self._recorder, self._made = None, None
                self.why = first_line(error)
        try:
            return self._plain(step, state, n, feeds)
        except torch.OutOfMemoryError:
            if self._made is None:
                raise
        self._made = None  # what it holds may be what is missing
        return self._plain(step, state, n, feeds)

    def _plain(self, step: "partial[S]", state: S, n: int, feeds: Sequence[Tensor]) -> S:
        for i in range(n):
            take = partial(step, state, *(f[i] for f in feeds))
            state = self._timed(take) if self._recorder and n >= TIMED and i == 1 else take()
        return state

    def _timed(self, take: Callable[[], S]) -> S:
        """One step, not the first, which may have to prepare. Python waits too where many launches are queued."""
        self._finish()
        began = time.perf_counter()
        state = take()
        launched = time.perf_counter()
        self._finish()
        self._waiting = launched - began > WAITING * (time.perf_counter() - began)
        return state

    def _replayed(self, recorder: Recorder, step: "partial[S]", state: S, n: int, feeds: Sequence[Tensor]) -> S:
        key, done = _key(step, state, feeds), 0
        if self._made is None or self._made.key != key:
            self._made, done = None, 1  # its memory is free for the next
            self._made = _record(recorder, key, step, state, [f[0] for f in feeds])
        else:
            _into(self._made.state, state)
        for i in range(done, n):
            _into(self._made.feeds, [f[i] for f in feeds])
            self._made.replay()
        return _like(state, self._made.state)


def loop_on(device: torch.device) -> Loop:
    """The fastest loop of a device."""
    if device.type != "cuda":
        return Loop()
    return Loop(CudaGraphs(device), partial(torch.cuda.synchronize, device))


@dataclass(frozen=True)
class _Made:
    """A recorded step: `replay()` moves `state` on, in place, by what lies in `feeds`."""

    key: tuple[Any, ...]
    state: tuple[Tensor, ...]
    feeds: tuple[Tensor, ...]
    replay: Callable[[], None]


def _key(step: "partial[Any]", state: Sequence[Tensor], feeds: Sequence[Tensor]) -> tuple[Any, ...]:
    shapes = [t.shape for t in state] + [f.shape[1:] for f in feeds]
    return step.func, step.args, step.keywords, shapes, [t.dtype for t in (*state, *feeds)]


def _record(recorder: Recorder, key: tuple[Any, ...], step: "partial[S]", state: S, feeds: Sequence[Tensor]) -> _Made:
    """A recording that has taken one step. RuntimeError if that is not the step."""
    mine, fed = tuple(t.clone() for t in state), tuple(f.clone() for f in feeds)
    with recorder.warm():
        expected = step(state, *feeds)

    def body() -> Tensor:
        _into(mine, step(_like(state, mine), *fed))
        return mine[0]

    recording = recorder.record(body, [])
    if not bool(torch.stack([(a == b).all() for a, b in zip(mine, expected, strict=True)]).all()):
        raise RuntimeError("a recorded step does not repeat the step")
    return _Made(key, mine, fed, recording.replay)


def _like(state: S, tensors: Sequence[Tensor]) -> S:
    return cast(Callable[..., S], type(state))(*tensors)


def _into(places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copies each value into its place, as if all at once: a value may lie in the place of another."""
    theirs = {t.untyped_storage().data_ptr() for t in places}
    moved = [(t, v) for t, v in zip(places, values, strict=True) if v is not t]
    for t, v in [(t, v.clone() if v.untyped_storage().data_ptr() in theirs else v) for t, v in moved]:
        t.copy_(v)
