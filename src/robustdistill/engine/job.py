"""A run, ready to go, and one step of it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from robustdistill.engine.schedule import lr_at
from robustdistill.engine.state import State
from robustdistill.engine.steps import Steps
from robustdistill.logits import Networks


@dataclass(frozen=True)
class Judge:
    """Judges a student: `(clean, robust)` accuracies in [0, 1] on the `n` images of `split` under `attack`.

    The best epoch is the first of the highest robust accuracy, or of the highest clean one where nothing is
    ascended in training. `one_step` gives the accuracy under FGSM, `teacher` the teacher's robust accuracy and on how
    many of the images; None where there is nothing to compare with.
    """

    accuracy: Callable[[nn.Module], tuple[float, float]]
    split: str
    attack: str
    every: int = 1
    n: int = 1
    one_step: Callable[[nn.Module], float] | None = None
    teacher: Callable[[], tuple[float, int]] | None = None


@dataclass(frozen=True)
class Job:
    """How a run's steps are taken, how long, and how its epochs are judged.

    `span` counts the epochs of the schedule, whose end the run may not reach. `networks` are plain forwards, never
    compiled; they measure the `terms` of the loss where there are several.
    `skip` is how many steps in a row may be left out because their loss or gradient is not finite.
    """

    steps: Steps
    networks: Networks
    judge: Judge
    epochs: int
    span: int
    lr: Callable[[int], float]
    terms: bool = False
    average: str = "none"
    average_start: int = 0
    skip: int = 0


def schedule(name: str, lr: float, epochs: int, milestones: tuple[int, ...], gamma: float) -> Callable[[int], float]:
    """`lr_at` with everything but the epoch bound."""
    return lambda epoch: lr_at(epoch, name=name, lr=lr, epochs=epochs, milestones=milestones, gamma=gamma)


def advance(job: Job, state: State, picks: Tensor, i: int) -> None:
    """Step `i` of the state's epoch, on the batch of `picks`; its loss stays on the device."""
    state.tally.pending.append(job.steps.take(picks, state.epoch, i))
    if job.average == "ema" and state.average is not None:
        state.average.update(state.student)
    state.step = i + 1
