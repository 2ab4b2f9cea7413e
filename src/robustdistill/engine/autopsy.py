"""What a step looks like whose loss or gradient is not finite: its images, losses, terms and gradients."""

import math
from typing import Any

import torch
from torch import Tensor

from robustdistill.engine.job import Job
from robustdistill.engine.state import State
from robustdistill.engine.step import adversary
from robustdistill.logits import Clock
from robustdistill.modes import untouched
from robustdistill.types import gradients
from robustdistill.world import current

SHOWN = 20


def examined(job: Job, state: State, picks: Tensor, i: int) -> dict[str, Any]:
    """The record of step `i` of the state's epoch on the batch of `picks`, from where that step starts.

    The step is made once more by the plain networks, without its update. Numbers that are not finite are
    spelt "nan", "inf" and "-inf". `ids` are rows of the training images, those of all processes.
    """
    steps, epoch = job.steps, state.epoch
    batch, z, generator = steps.beside(picks, epoch, i, job.networks, Clock.at(epoch, job.span, picks.device))
    with untouched(state.student, state.units), steps.seeded(epoch, i):
        x_adv = adversary(steps.game, state.student, z, generator)
        state.student.train()
        learning = z.update(x_adv)
        each = steps.game.outer(learning)
        named = {name: p for name, p in state.student.named_parameters() if p.requires_grad}
        grads = gradients(z.mean(each), list(named.values()))
    bad = [name for name, g in zip(named, grads, strict=True) if not bool(g.isfinite().all())]
    x, x_adv, ids, labels, each = (_all(v) for v in (batch.x, x_adv, batch.ids, batch.y, each))
    return {
        "epoch": epoch,
        "step": i + 1,
        "lr": job.lr(epoch),
        "ids": ids.tolist(),
        "labels": labels.tolist(),
        "losses": [spelt(v) for v in each.tolist()],
        "terms": {name: spelt(float(z.mean(term.detach()))) for name, term in learning.terms.items()},
        "finite": {name: bool(v.isfinite().all()) for name, v in (("x", x), ("x_adv", x_adv), ("loss", each))},
        "gradients_not_finite": {"count": len(bad), "of": len(named), "names": bad[:SHOWN]},
    }


def _all(v: Tensor) -> Tensor:
    """The rows of every process, on the CPU."""
    return torch.cat(current().gather(v.detach().cpu))


def spelt(value: float) -> float | str:
    """A number that JSON can hold."""
    return value if math.isfinite(value) else str(value)
