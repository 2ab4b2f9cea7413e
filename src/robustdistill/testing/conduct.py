"""How an objective behaves: its signature, what it leaves alone, what a step on any device asks of it."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.step import min_max
from robustdistill.engine.tape import Tapes
from robustdistill.logits import Clock
from robustdistill.testing.case import Case
from robustdistill.testing.checks import DoesNotApply, called, hold, stopped
from robustdistill.testing.problem import (
    CLASSES,
    SHAPE,
    Small,
    Teachers,
    cross_entropy,
    images,
    pose,
    same_global_rng,
    two_steps,
)
from robustdistill.testing.signatures import annotated, by_keyword
from robustdistill.testing.state import keeps_its_state, moves_in_place
from robustdistill.types import Objective


def signature(case: Case) -> None:
    """Takes the batch and, for the rest, keyword-only parameters with annotations that can be read at run time."""
    if isinstance(case.unit, nn.Module):
        raise DoesNotApply("an instance; its class is what is registered")
    if inspect.isclass(case.unit):
        hold(issubclass(case.unit, nn.Module), f"{case.what} is a class and no nn.Module; its state would be lost")
        by_keyword(case.what, case.unit, 0, "def __init__(self, *, ...)")
    else:
        by_keyword(case.what, case.unit, 1, f"def {called(case.unit)}(z, *, ...)")
    annotated(case.what, case.unit)


def docstring(case: Case) -> None:
    """Has a docstring: `list` and `explain` show it, and the formula belongs there."""
    text = inspect.getdoc(case.unit) or ""
    hold(text and text != inspect.getdoc(nn.Module), f"{case.what} has no docstring; write its formula there")


def inputs(case: Case) -> None:
    """Changes nothing that it reads: images, labels and logits keep their values."""
    student = Small().double().eval()
    seen: list[Tensor] = []

    def kept(network: Any) -> Any:
        def forward(v: Tensor) -> Tensor:
            out: Tensor = network(v)
            seen.append(out)
            return out

        return forward

    teachers = Teachers()
    for role in ("robust", "clean"):
        teachers[role] = kept(teachers[role])
    z = pose(kept(student), images(4), teachers, learning=case.learning)
    given = {"images": z.x, "labels": z.y, "adversarial images": z.x_adv}
    versions = {name: v._version for name, v in given.items()}
    case.loss(z)
    changed = [name for name, v in given.items() if v._version != versions[name]]
    changed += ["logits"] if any(v._version for v in seen) else []
    hold(not changed, f"{case.what} changes {' and '.join(changed)} in place; write v = v * 2 instead of v *= 2")


def networks(case: Case) -> None:
    """Leaves the networks alone: modes, weights, `.grad`, and BatchNorm but for the student's own forwards."""
    student, forwards = Small().double().train(), 0

    class Counted(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            nonlocal forwards
            forwards += 1
            out: Tensor = student(v)
            return out

    wrapper = Counted()
    wrapper.network = student
    modes = [m.training for m in student.modules()]
    weights = [p.detach().clone() for p in student.parameters()]
    case.loss(pose(wrapper, images(4), learning=True))
    hold([m.training for m in student.modules()] == modes, f"{case.what} changes the student's mode (train, eval)")
    hold(
        all(p.requires_grad and p.grad is None for p in student.parameters()),
        f"{case.what} leaves gradients in the student, or freezes it; use torch.autograd.grad, not backward",
    )
    same = all(torch.equal(p, before) for p, before in zip(student.parameters(), weights, strict=True))
    hold(same, f"{case.what} changes the student's weights")
    moved = int(student.bn.num_batches_tracked)  # type: ignore[arg-type]
    hold(moved == forwards, f"BatchNorm counted {moved} batches in {forwards} forwards that {case.what} asked for")


def global_rng(case: Case) -> None:
    """Draws nothing from the global random state of torch, numpy or Python."""
    z = pose(Small().double().eval(), images(4), learning=case.learning)
    objective = case.make()
    with same_global_rng(case.what):
        objective(z)


def repeats(case: Case) -> None:
    """Gives the same loss again for the same batch, from the same state."""
    student = Small().double().eval()
    one, other = (case.loss(pose(student, images(4), learning=case.learning)) for _ in range(2))
    same = torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    hold(same, f"two fresh calls of {case.what} on one batch differ; what is kept between them?")


def meta(case: Case) -> None:
    """A step on device meta passes: it asks the host for no value."""
    objective = case.make(torch.float32)
    inner, outer = (cross_entropy, objective) if case.learning else (objective, cross_entropy)
    try:
        dry_step(min_max(inner, outer, two_steps), Small(), shape=SHAPE, classes=CLASSES)
    except Exception as error:
        instead = (
            "torch.where, masked_fill and multiplication by a mask, not .item(), float(v), `if v`, v[mask] or .cpu()"
        )
        raise stopped(case.what, error, instead) from error


def replays(case: Case) -> None:
    """A recorded step, replayed on another batch in another epoch, gives what a fresh one gives."""
    student, clock = Small().eval(), Clock.at(0, 10)
    first, second = (images(4, seed, torch.float32) for seed in (0, 1))
    static = tuple(v.clone() for v in first)
    recorded, plain = case.make(torch.float32), case.make(torch.float32)
    teachers = Teachers(torch.float32)

    def loss(objective: Objective, batch: Any) -> Tensor:
        return objective(pose(student, batch, teachers, learning=case.learning, clock=clock))

    recording = Tapes().record(lambda: loss(recorded, static), [])
    loss(plain, first)
    for held, new in zip(static, second, strict=True):
        held.copy_(new)
    clock.epoch.fill_(9)
    recording.replay()
    want = loss(plain, second)
    hold(
        torch.allclose(recording.out, want, rtol=1e-4, atol=1e-5),
        f"a recorded step of {case.what} gives {recording.out[0]:.6g} where a fresh one gives {want[0]:.6g}: something "
        "in it is a Python value, which a recording freezes; time is z.progress, state is a buffer changed in place",
    )


def in_place(case: Case) -> None:
    """State moves in place: buffers keep their memory, and nothing else changes in a step."""
    objective = _stateful(case)
    moves_in_place(case.what, objective, lambda i: _step(case, objective, i))


def keeps(case: Case) -> None:
    """State survives a checkpoint, a copy and the end of an epoch: the next loss is the same."""
    objective = _stateful(case)

    def loss(one: nn.Module) -> Tensor:
        for i in range(3):
            _step(case, one, i)
        return one(pose(Small().double().eval(), images(4), learning=case.learning))  # type: ignore[no-any-return]

    keeps_its_state(case.what, objective, lambda: _stateful(case), loss)


def _stateful(case: Case) -> nn.Module:
    objective = case.make()
    if not isinstance(objective, nn.Module):
        raise DoesNotApply("a function has no state")
    return objective


def _step(case: Case, objective: nn.Module, i: int) -> None:
    objective(pose(Small(i).double().eval(), images(4, i), learning=case.learning, clock=Clock.at(i, 3)))
