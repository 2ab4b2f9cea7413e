"""What an objective returns: its shape, format, finiteness, and gradient."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustdistill.logits import Clock
from robustdistill.testing.case import Case
from robustdistill.testing.checks import DoesNotApply, hold
from robustdistill.testing.constants import slopes
from robustdistill.testing.problem import Small, Teachers, images, pose


def shape(case: Case) -> None:
    """Is a loss per example, `[B]`, for a batch of one image too."""
    for n in (6, 1):
        loss = case.loss(pose(Small().double(), images(n), learning=case.learning))
        hold(isinstance(loss, Tensor), f"{case.what} returns {type(loss).__name__}, not a tensor")
        hold(
            loss.shape == (n,),
            f"{case.what} returns shape {list(loss.shape)} for {n} image{'s' * (n > 1)}; it must be [{n}], one loss an "
            "example: leave the mean over the batch to the engine",
        )


def dtype(case: Case) -> None:
    """Computes in the precision of its logits: float32 gives float32, float64 stays float64."""
    for given in (torch.float32, torch.float64):
        got = case.loss(pose(Small().to(given), images(6, dtype=given), learning=case.learning)).dtype
        hold(got == given, f"{case.what} returns {got} for logits in {given}; a constant or a cast changes it")


def finite(case: Case) -> None:
    """Is finite, and so are its gradients: early and late, on very sure networks, and where S = T and x' = x."""
    student, sure, equal = Small().double(), Small(gain=300).double(), Small().double().eval()
    x, y, _ = images(6)
    early, late = Clock.at(0, 10), Clock.at(9, 10)
    for when, network, batch, teachers, clock in (
        ("in the first epoch", student, images(6), Teachers(), early),
        ("in the last epoch", student, images(6), Teachers(), late),
        ("on logits of some hundreds", sure, images(6), Teachers(gain=300), late),
        ("where x' = x and the student answers as its teacher", equal, (x, y, x.clone()), _all(equal), late),
    ):
        x_adv = batch[2].requires_grad_()
        loss = case.loss(pose(network, batch, teachers, learning=case.learning, clock=clock))
        hold(loss.isfinite().all(), f"{case.what} is not finite {when}: {loss.detach().tolist()}")
        grads: tuple[Tensor | None, ...] = ()
        if loss.requires_grad:
            grads = torch.autograd.grad(loss.sum(), [x_adv, *network.parameters()], allow_unused=True)
        bad = any(g is not None and not bool(g.isfinite().all()) for g in grads)
        hold(not bad, f"the gradient of {case.what} is not finite {when}; a root or a logarithm at 0?")


def _all(network: nn.Module) -> Teachers:
    """Teachers that are copies of `network`, whatever their role."""
    frozen, teachers = copy.deepcopy(network).requires_grad_(False), Teachers()
    teachers.update(dict.fromkeys(("robust", "clean"), frozen))
    return teachers


def bf16(case: Case) -> None:
    """Takes bfloat16 logits: the loss is float32, finite, and near that of the same logits in float32."""
    network, batch = Small().eval(), images(6, dtype=torch.float32)

    def loss(cast: Callable[[Tensor], Tensor]) -> Tensor:
        z = pose(lambda v: cast(network(v)), batch, Teachers(torch.float32, cast=cast), learning=case.learning)
        return case.make(torch.float32)(z)

    got, want = loss(lambda v: v.bfloat16()), loss(lambda v: v.bfloat16().float())
    hold(
        got.dtype == torch.float32,
        f"{case.what} returns {got.dtype} for bfloat16 logits; take the functions of robustdistill.losses, or "
        "losses.full_precision(logits) first",
    )
    hold(got.isfinite().all(), f"{case.what} is not finite on bfloat16 logits: {got.detach().tolist()}")
    i = int((far := (got - want).abs() - 0.1 * want.abs()).argmax())
    hold(
        float(far[i]) <= 0.05,
        f"{case.what} is far off on bfloat16 logits, {got[i]:.3g} for {want[i]:.3g}; raise them by "
        "losses.full_precision before computing",
    )


def examples(case: Case) -> None:
    """No example changes another's loss, but through `z.mean`, `z.min`, `z.once` or state."""
    x, y, x_adv = images(6)
    others = images(6, seed=1)
    mixed = tuple(torch.cat([mine[:3], other[3:]]) for mine, other in zip((x, y, x_adv), others, strict=True))
    student = Small().double().eval()
    z = pose(student, (x, y, x_adv), learning=case.learning)
    objective = case.make()
    whole = objective(z)[:3]
    if isinstance(objective, nn.Module) and objective.state_dict():
        raise DoesNotApply("its state may see the whole batch")
    if z.used:
        raise DoesNotApply(f"it reads the whole batch by z.{', z.'.join(sorted(z.used))}")
    part = case.loss(pose(student, mixed, learning=case.learning))[:3]  # type: ignore[arg-type]
    hold(
        torch.allclose(whole, part, rtol=1e-9, atol=1e-12),
        f"the loss {case.what} of an example changes with the other examples of its batch; a mean over the batch is "
        "z.mean(v), a minimum z.min(v)",
    )


def gradient(case: Case) -> None:
    """Its gradient is that of its value by finite differences, with what it detaches held constant."""
    student, (x, y, x_adv) = Small().double().eval(), images(4)
    teachers = Teachers()
    leaves = list(student.parameters()) if case.learning else [x_adv.requires_grad_()]
    fresh = iter(
        [case.make() for _ in range(1 + 3 * 3)]
    )  # state must not go on from one end of a difference to the other

    def loss() -> Tensor:
        return next(fresh)(pose(student, (x, y, x_adv), teachers, learning=case.learning))

    if not loss().requires_grad:
        raise DoesNotApply("it has no gradient")
    for seed in range(3):
        analytic, numeric, scale = slopes(loss, leaves, seed)
        hold(
            abs(analytic - numeric) <= 1e-6 * scale + 1e-4 * abs(numeric),
            f"{case.what} has the slope {analytic:.6g} by its gradient and {numeric:.6g} by finite differences",
        )


def reaches(case: Case) -> None:
    """The gradient of an outer objective reaches the student, that of an inner one x' of every image."""
    student, (x, y, x_adv) = Small().double().eval(), images(4)
    loss = case.loss(pose(student, (x, y, x_adv.requires_grad_()), learning=case.learning))
    leaves = list(student.parameters()) if case.learning else [x_adv]
    grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if loss.requires_grad:
        grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    if case.learning:
        reached = any(g is not None and bool(g.any()) for g in grads)
        hold(reached, f"no gradient of {case.what} reaches the student; is everything it reads of S detached?")
    else:
        (g,) = grads
        reached = g is not None and bool(g.flatten(1).any(1).all())
        hold(
            reached,
            f"no gradient of {case.what} reaches x' of every image; inner objectives read z.s_adv, z.t_adv or z.x_adv",
        )
