"""Epochs of min-max steps, as a generator of events: whoever iterates drives the training."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from robustdistill.engine.concerns import concerns
from robustdistill.engine.job import Job, advance
from robustdistill.engine.state import State, set_lr
from robustdistill.engine.terms import term_sizes
from robustdistill.engine.vigil import Vigil
from robustdistill.events import Evaluated, Event, Stepped, Trained, Warned
from robustdistill.logits import Clock
from robustdistill.world import current


@dataclass(frozen=True)
class Rest:
    """The run stands between two steps, or between training and judging: the state is whole and may be saved."""


def train(job: Job, state: State, due: Callable[[], bool] = lambda: False) -> Iterator[Event | Rest]:
    """Trains from where `state` stands. Yields `Stepped` some ten times an epoch, `Trained` after each and
    `Evaluated` after those that are judged.

    When `Evaluated` is yielded the state is that of the finished epoch, ready to be saved; so it is at a `Rest`, which
    comes as soon as `due()` says so, asked after every step. Raises `Diverged` when a loss or a gradient is not finite,
    `ProcessesApart` when the processes of a run are not equal at the end of an epoch.
    """
    current().refuse_unequal(state.named(), "at the start")
    vigil = Vigil(job, state)
    while state.epoch < job.epochs:
        began, lr = time.perf_counter(), job.lr(state.epoch)
        if state.step < len(job.steps.batches):
            yield from _epoch(job, state, vigil, lr, due)
            current().refuse_unequal(state.named(), f"after epoch {state.epoch + 1}")
        if due():
            yield Rest()
        judged = (state.epoch + 1) % job.judge.every == 0 or state.epoch + 1 == job.epochs
        trained = _trained(job, state, lr, time.perf_counter() - began, judged)
        if not state.tally.told:
            yield trained
            state.tally.told = True
        if judged:
            yield from _judge(job, state, trained, began)
        else:
            state.next_epoch()


def _epoch(job: Job, state: State, vigil: Vigil, lr: float, due: Callable[[], bool]) -> Iterator[Event | Rest]:
    """The epoch's steps from `state.step` on."""
    set_lr(state.optimizer, lr)
    if state.step == 0:
        state.tally.terms, state.tally.gradients = _term_sizes(job, state)
    job.steps.begin(state.epoch)
    vigil.begin()
    steps, images, began = len(job.steps.batches), 0, time.perf_counter()
    every = max(1, steps // 10)
    for i, picks in enumerate(job.steps.batches.picks(state.epoch, state.step), state.step):
        advance(job, state, picks, i)
        images += picks.shape[-1]
        while job.steps.notes:
            yield Warned(job.steps.notes.pop(0))
        last, window = i + 1 == steps, (i + 1) % every == 0 or i + 1 == steps
        rest = due() and not last
        if window or rest:
            loss = yield from vigil.look(fetch=window)
            if loss is not None:
                now = time.perf_counter()
                yield Stepped(state.epoch, i + 1, steps, loss, lr, images / (now - began))
                images, began = 0, time.perf_counter()
        if rest:
            yield Rest()
    job.steps.game.end_epoch()
    if job.average == "swa" and state.average is not None and state.epoch >= job.average_start:
        state.average.update(state.student)


def _term_sizes(job: Job, state: State) -> tuple[dict[str, float], dict[str, float]]:
    if not job.terms:
        return {}, {}
    steps, epoch = job.steps, state.epoch
    picks = next(iter(steps.batches.picks(epoch)))
    clock = Clock.at(epoch, job.span, picks.device)
    _, z, generator = steps.beside(picks, epoch, 0, job.networks, clock)
    with steps.seeded(epoch, 0):
        return term_sizes(steps.game, state.student, z, generator)


def _trained(job: Job, state: State, lr: float, seconds: float, judged: bool) -> Trained:
    tally = state.tally
    loss = tally.mean(len(job.steps.batches))
    return Trained(state.epoch, loss, lr, seconds, judged, tally.terms, tally.gradients)


def _judge(job: Job, state: State, trained: Trained, began: float) -> Iterator[Event]:
    """Judges the epoch, tells what there is to know of that, and ends it: last of all `Evaluated`."""
    clean, robust = job.judge.accuracy(state.judged)
    natural = job.steps.game.attack is None  # robust accuracy of a natural training is noise
    last = state.epoch + 1 == job.epochs
    yield from map(Warned, [] if natural else concerns(job.judge, state, robust, last))
    by = "clean" if natural else "robust"
    best = {"clean": clean, "robust": robust}[by] > state.best.get(by, -1.0)
    event = Evaluated(
        epoch=trained.epoch,
        split=job.judge.split,
        clean=clean,
        robust=robust,
        attack=job.judge.attack,
        loss=trained.loss,
        lr=trained.lr,
        seconds=time.perf_counter() - began,
        terms=trained.terms,
        gradients=trained.gradients,
        best=best,
    )
    plain = {k: v for k, v in asdict(event).items() if k != "seconds"}
    state.history.append(plain)
    if best:
        state.best = plain
    state.next_epoch()
    yield event
