"""The contract of an attack: the ball, the objective that it is given, and nothing left behind."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Generator, Tensor

from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.step import min_max
from robustdistill.logits import Logits
from robustdistill.testing.checks import Check, DoesNotApply, called, hold, stopped
from robustdistill.testing.problem import (
    CLASSES,
    EPS,
    SHAPE,
    Small,
    Watched,
    cross_entropy,
    images,
    pose,
    same_global_rng,
)
from robustdistill.testing.signatures import annotated, by_keyword
from robustdistill.types import Attack, Objective

ROUNDING = 1e-6


@dataclass(frozen=True)
class AttackCase:
    """An attack to check, as a record; `params` over its presets."""

    attack: Attack
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def what(self) -> str:
        """Its name in sentences."""
        return self.name or called(self.attack.run)

    def run(self, z: Logits, objective: Objective | None = None, *, eps: float = EPS, seed: int = 0) -> Tensor:
        """x' of a generator seeded with `seed`; of the attack's own objective unless another is given."""
        ascended, generator = objective or self.attack.objective or cross_entropy, Generator().manual_seed(seed)
        params = {**self.attack.params, **self.params}
        x_adv: Tensor = self.attack.run(z, ascended, eps=eps, generator=generator, **params)
        return x_adv


def posed(n: int = 4, dtype: torch.dtype = torch.float32, network: Small | None = None) -> Watched:
    """A batch at x' = x on a frozen network in eval mode."""
    x, y, _ = images(n, dtype=dtype)
    student = network or Small().to(dtype).eval().requires_grad_(False)
    return pose(student, (x, y, x.clone()), learning=False)


def brightness(z: Logits) -> Tensor:
    """An objective of x' alone: no network, no label."""
    return z.x_adv.flatten(1).sum(1)


def confidence(z: Logits) -> Tensor:
    """An objective that no label enters: the largest logit."""
    return z.s_adv.amax(1)


def shape(case: AttackCase) -> None:
    """Returns x' of the images' shape and format, detached; float32, float64, one image."""
    for n, dtype in ((4, torch.float32), (4, torch.float64), (1, torch.float32)):
        z = posed(n, dtype)
        x_adv = case.run(z)
        hold(isinstance(x_adv, Tensor), f"{case.what} returns {type(x_adv).__name__}, not a tensor")
        got, want = (list(x_adv.shape), x_adv.dtype), (list(z.x.shape), z.x.dtype)
        hold(got == want, f"{case.what} returns {got[0]} in {got[1]} for images {want[0]} in {want[1]}")
        hold(not x_adv.requires_grad, f"{case.what} returns an x' with a graph behind it; return x_adv.detach()")


def signature(case: AttackCase) -> None:
    """Takes `(z, objective, /, *, eps, generator)` and keyword-only parameters with annotations; its presets fit."""
    lost = [name for name in ("eps", "generator") if name not in inspect.signature(case.attack.run).parameters]
    hold(not lost, f"{case.what} does not take {' and '.join(lost)} by keyword; the engine gives both")
    written = f"def {called(case.attack.run)}(z, objective, /, *, eps, generator, ...)"
    by_keyword(case.what, case.attack.run, 2, written)
    annotated(case.what, case.attack.run, {**case.attack.params, **case.params})


def docstring(case: AttackCase) -> None:
    """Has a summary in its record, or a docstring: `list` shows it."""
    told = case.attack.summary or inspect.getdoc(case.attack.run)
    hold(told, f"{case.what} has no summary; say in a line what it ascends: Attack(run, objective, params, summary)")


def budget(case: AttackCase) -> None:
    """Stays in the ball and in [0, 1], for any radius, on black and white images too."""
    for eps in (1e-3, EPS, 0.9):
        z = posed()
        z.x[0], z.x[1] = 0, 1
        x_adv = case.run(z, eps=eps)
        far, low, high = float((x_adv - z.x).abs().max()), float(x_adv.min()), float(x_adv.max())
        hold(far <= eps + ROUNDING, f"{case.what} leaves the ball: x' is {far:.6g} from x, and eps is {eps:g}")
        hold(low >= 0 and high <= 1, f"{case.what} leaves [0, 1]: x' goes from {low:.4g} to {high:.4g}; clamp it")


def zero(case: AttackCase) -> None:
    """Returns x where the radius is 0."""
    z = posed()
    far = float((case.run(z, eps=0.0) - z.x).abs().max())
    hold(far <= ROUNDING, f"{case.what} moves images by {far:.4g} where eps is 0; steps belong to the radius")


def ascends(case: AttackCase) -> None:
    """Raises the objective that it is given: its mean at x' is not below that at x."""
    objectives = {"its own objective": case.attack.objective or cross_entropy, "another objective": brightness}
    for which, objective in objectives.items():
        if objective is brightness and case.attack.ensemble:
            continue  # it has objectives of its own
        z = posed()
        x_adv = case.run(z, objective)
        before, after = (float(objective(z.at(v)).mean()) for v in (z.x, x_adv))
        hold(
            after >= before - 1e-4 * (1 + abs(before)),
            f"{case.what} lowers {which} from {before:.4g} to {after:.4g}; an attack ascends objective(z.at(v))",
        )


def labels(case: AttackCase) -> None:
    """Reads no labels of its own: where the objective reads none, x' does not depend on them."""
    if case.attack.ensemble:
        raise DoesNotApply("an ensemble judges by labels")
    z, other = posed(), posed()
    other.y = (z.y + 1) % CLASSES
    same = torch.equal(case.run(z, confidence), case.run(other, confidence))
    hold(same, f"{case.what} reads z.y itself; what is ascended is the objective's business, some read no labels")


def inputs(case: AttackCase) -> None:
    """Leaves the images and labels that it is given as they are."""
    z = posed()
    versions = z.x._version, z.y._version
    case.run(z)
    same = (z.x._version, z.y._version) == versions and not z.x.requires_grad
    hold(same, f"{case.what} changes z.x or z.y, or lets z.x require a gradient; work on z.x.detach().clone()")


def networks(case: AttackCase) -> None:
    """Leaves the networks alone: modes, weights, BatchNorm, requires_grad and `.grad`."""
    network = Small().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    case.run(posed(network=network))
    hold(not any(m.training for m in network.modules()), f"{case.what} puts the network in train mode")
    clean = all(p.requires_grad and p.grad is None for p in network.parameters())
    hold(clean, f"{case.what} leaves gradients in the network, or freezes it; use torch.autograd.grad, not backward")
    moved = [k for k, v in network.state_dict().items() if not torch.equal(v, before[k])]
    hold(not moved, f"{case.what} changes the network: {', '.join(moved)}")


def draws(case: AttackCase) -> None:
    """Draws from its generator alone: the same seed gives the same x', and no global random state moves."""
    found = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kept = numpy.random.get_state()
            numpy.random.seed(seed)
            found.append(case.run(posed()))
            numpy.random.set_state(kept)
    one, other = found
    same = torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    hold(same, f"{case.what} gives another x' for the same generator; draw by torch.rand(..., generator=generator)")
    with same_global_rng(case.what):
        case.run(posed())


def meta(case: AttackCase) -> None:
    """A training step with it passes on device meta: it asks the host for no value."""
    if case.attack.ensemble:
        raise DoesNotApply("an ensemble judges; it does not train")

    def attack(z: Logits, objective: Objective, generator: Generator | None) -> Tensor:
        params = {**case.attack.params, **case.params}
        x_adv: Tensor = case.attack.run(z, objective, eps=EPS, generator=generator, **params)
        return x_adv

    try:
        dry_step(min_max(cross_entropy, cross_entropy, attack), Small(), shape=SHAPE, classes=CLASSES)
    except Exception as error:
        instead = "torch.where and a fixed number of steps, not .item(), `if v`, v[mask] or an early stop"
        raise stopped(case.what, error, instead) from error


ATTACK_CHECKS: tuple[Check[AttackCase], ...] = (
    signature,
    docstring,
    shape,
    draws,
    budget,
    zero,
    ascends,
    labels,
    inputs,
    networks,
    meta,
)
