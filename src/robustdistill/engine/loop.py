"""Epochs of min-max steps, as a generator of events: whoever iterates drives the training."""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from robustdistill.engine.schedule import lr_at
from robustdistill.engine.state import State, set_lr
from robustdistill.engine.steps import Steps
from robustdistill.engine.terms import term_sizes
from robustdistill.errors import Diverged
from robustdistill.events import Evaluated, Event, Stepped, Trained, Warned
from robustdistill.logits import Clock, Logits, Networks


@dataclass(frozen=True)
class Judge:
    """Judges a student: `(clean, robust)` accuracies in [0, 1] on `split` under `attack`.

    The best epoch is the first of the highest robust accuracy, or of the highest clean one where nothing is
    ascended in training.
    """

    accuracy: Callable[[nn.Module], tuple[float, float]]
    split: str
    attack: str
    every: int = 1


@dataclass(frozen=True)
class Job:
    """A run, ready to go: how its steps are taken, how long, and how its epochs are judged.

    `networks` are plain forwards, never compiled; they measure the `terms` of the loss where there are several.
    """

    steps: Steps
    networks: Networks
    judge: Judge
    epochs: int
    lr: Callable[[int], float]
    terms: bool = False
    average: str = "none"
    average_start: int = 0


def schedule(name: str, lr: float, epochs: int, milestones: tuple[int, ...], gamma: float) -> Callable[[int], float]:
    """`lr_at` with everything but the epoch bound."""
    return lambda epoch: lr_at(epoch, name=name, lr=lr, epochs=epochs, milestones=milestones, gamma=gamma)


def train(job: Job, state: State) -> Iterator[Event]:
    """Trains from `state.epoch` on. Yields `Stepped` some ten times an epoch, `Trained` after each and
    `Evaluated` after those that are judged.

    When `Evaluated` is yielded the state is that of the finished epoch, ready to be saved. Raises
    `Diverged` when a loss that is looked at is not finite.
    """
    for epoch in range(state.epoch, job.epochs):
        began, lr = time.perf_counter(), job.lr(epoch)
        set_lr(state.optimizer, lr)
        sizes = _term_sizes(job, state, epoch)
        loss = yield from _epoch(job, state, epoch, lr)
        job.steps.game.end_epoch()
        if job.average == "swa" and state.average is not None and epoch >= job.average_start:
            state.average.update(state.student)
        state.epoch = epoch + 1
        judged = state.epoch % job.judge.every == 0 or state.epoch == job.epochs
        trained = Trained(epoch, loss, lr, time.perf_counter() - began, judged, *sizes)
        yield trained
        if judged:
            yield _evaluate(job, state, trained, began)


def _epoch(job: Job, state: State, epoch: int, lr: float) -> Generator[Event, None, float]:
    job.steps.begin(epoch)
    batches = job.steps.batches
    steps = len(batches)
    every = max(1, steps // 10)
    total, images, began = 0.0, 0, time.perf_counter()
    losses: list[Tensor] = []
    for i, picks in enumerate(batches.picks(epoch)):
        losses.append(job.steps.take(picks, epoch, i))
        if job.average == "ema" and state.average is not None:
            state.average.update(state.student)
        images += picks.shape[-1]
        while job.steps.notes:
            yield Warned(job.steps.notes.pop(0))
        if (i + 1) % every == 0 or i + 1 == steps:
            window = torch.stack(losses).double().cpu()  # losses are fetched here, not in a step
            losses.clear()
            total += float(window.sum())
            _finite(total, epoch, i)
            now = time.perf_counter()
            yield Stepped(epoch, i + 1, steps, float(window[-1]), lr, images / (now - began))
            images, began = 0, time.perf_counter()
    return total / steps


def _finite(loss: float, epoch: int, i: int) -> None:
    if not abs(loss) < float("inf"):
        raise Diverged(
            f"the loss is {loss} at epoch {epoch}, step {i + 1}: lower --lr or check the teacher; "
            "what was saved before is kept"
        )


def _term_sizes(job: Job, state: State, epoch: int) -> tuple[dict[str, float], dict[str, float]]:
    if not job.terms:
        return {}, {}
    steps = job.steps
    first = steps.batches.batch(next(iter(steps.batches.picks(epoch))))
    z = Logits(first.x, first.y, job.networks, clock=Clock.at(epoch, job.epochs, first.x.device))
    generator = torch.Generator(first.x.device).manual_seed(steps.seed("start", epoch, 0))
    with steps.seeded(epoch, 0):
        return term_sizes(steps.game, state.student, z, generator)


def _evaluate(job: Job, state: State, trained: Trained, began: float) -> Evaluated:
    clean, robust = job.judge.accuracy(state.judged)
    by = "clean" if job.steps.game.attack is None else "robust"  # robust accuracy of a natural training is noise
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
    return event
