"""Short runs on the digits whose steps are taken one by one, by whatever recorder a test gives them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from games import Tiny, teacher, teachers_of
from robustdistill.engine.state import set_lr
from robustdistill.engine.step import MinMax
from robustdistill.engine.steps import Steps
from robustdistill.prepare import Run, prepare
from robustdistill.recording import Recorder
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve

BATCH = 32


def run_of(layer: Mapping[str, Any], recorder: Recorder | None = None, game: MinMax | None = None) -> Run:
    """A run prepared from `layer` with a tiny student and teacher; `game` takes the place of the method's."""
    common: dict[str, Any] = {"precision": "fp32", "mode": "eager", "batch_size": BATCH, "epochs": 4, "device": "cpu"}
    common["schedule"] = {"name": "cosine"}
    registry, teachers = default_registry(), teachers_of(layer)
    run = prepare(resolve([common | layer], registry), registry, student=Tiny(), teacher=teachers or teacher())
    run.job.steps.recorder = recorder
    if game is not None:
        run.job.steps.game = game
    return run


def take(run: Run, epoch: int, n: int | None = None) -> Iterator[Tensor]:
    """The losses of the first `n` steps of `epoch`, at the epoch's learning rate."""
    set_lr(run.state.optimizer, run.job.lr(epoch))
    run.job.steps.begin(epoch)
    for i, picks in enumerate(run.job.steps.batches.picks(epoch)):
        if i == n:
            return
        yield run.job.steps.take(picks, epoch, i)
    run.job.steps.game.end_epoch()


def train(run: Run, n: int = 6, epochs: tuple[int, ...] = (0, 2)) -> Tensor:
    """Some steps of some epochs; their losses."""
    return torch.stack([loss for epoch in epochs for loss in list(take(run, epoch, n))])


def distance(a: nn.Module, b: nn.Module) -> float:
    """The largest difference of two networks' weights and buffers, over the largest value of each."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((p - q).abs().max() / (q.abs().max() + 1e-12)) for p, q in pairs)


def steps_of(run: Run) -> Steps:
    return run.job.steps
