"""What a step looks like whose loss or gradient is not finite: its images, losses, terms and gradients."""

import math
from typing import Any

import torch
from torch import Tensor

from robustdistill.engine.job import Job
from robustdistill.engine.state import State
from robustdistill.engine.step import adversary
from robustdistill.logits import Clock, Logits
from robustdistill.modes import untouched

SHOWN = 20


def examined(job: Job, state: State, picks: Tensor, i: int) -> dict[str, Any]:
    """The record of step `i` of the state's epoch on the batch of `picks`, from where that step starts.

    The step is made once more by the plain networks, without its update. Numbers that are not finite are
    spelt "nan", "inf" and "-inf". `ids` are rows of the training images.
    """
    steps, epoch = job.steps, state.epoch
    batch = steps.batches.batch(picks)
    generator = torch.Generator(batch.x.device).manual_seed(steps.seed("start", epoch, i))
    z = Logits(batch.x, batch.y, job.networks, clock=Clock.at(epoch, job.span, batch.x.device))
    with untouched(state.student, state.units), steps.seeded(epoch, i):
        x_adv = adversary(steps.game, state.student, z, generator)
        state.student.train()
        learning = z.update(x_adv)
        each = steps.game.outer(learning)
        named = {name: p for name, p in state.student.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(each.mean(), list(named.values()), allow_unused=True)
    bad = [name for name, g in zip(named, grads, strict=True) if g is not None and not bool(g.isfinite().all())]
    return {
        "epoch": epoch,
        "step": i + 1,
        "lr": job.lr(epoch),
        "ids": batch.ids.tolist(),
        "labels": batch.y.tolist(),
        "losses": [spelt(v) for v in each.tolist()],
        "terms": {name: spelt(float(term.detach().mean())) for name, term in learning.terms.items()},
        "finite": {name: bool(v.isfinite().all()) for name, v in (("x", batch.x), ("x_adv", x_adv), ("loss", each))},
        "gradients_not_finite": {"count": len(bad), "of": len(named), "names": bad[:SHOWN]},
    }


def spelt(value: float) -> float | str:
    """A number that JSON can hold."""
    return value if math.isfinite(value) else str(value)
