"""The min-max step: forwards counted, hosts never waited for, AdaAD found inside MMARD, modifiers composed."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from games import Tiny, batch, game, images, seeded, teacher
from robustdistill.builtin.modifiers import AdversarialWeightPerturbation
from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.schedule import lr_at
from robustdistill.engine.state import sgd
from robustdistill.engine.step import min_max, step
from robustdistill.engine.terms import term_sizes
from robustdistill.errors import PluginError, UserError
from robustdistill.logits import Logits, Networks
from robustdistill.losses import ce, kl
from robustdistill.registry import default_registry
from robustdistill.types import Modifier

INNER = default_registry().names("inner")
OUTER = default_registry().names("outer")
MODIFIERS = default_registry().names("modifier")
SHAPE = (2, 1, 8, 8)


def steps(layer: dict[str, Any], n: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, list[float]]:
    student, played, losses = Tiny().to(dtype), game(layer), []
    optimizer = sgd(student.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4, nesterov=False)
    for i in range(n):
        losses.append(float(step(played, student, batch(student, 8, i, dtype), optimizer, seeded(i))))
    return student, losses


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("with_", ["", *MODIFIERS])
def test_every_pair_steps_without_the_host(inner: str, outer: str, with_: str) -> None:
    layer = {"inner": inner, "outer": outer, "with": with_}
    reads = dry_step(game(layer), Tiny(), shape=SHAPE, classes=10)
    assert reads.outer["student"] >= 1
    student, losses = steps(layer, 1)
    assert losses[0] == losses[0]
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), Tiny().double().parameters(), strict=True))


@pytest.mark.parametrize(
    ("method", "inner", "outer"),
    [
        ("nature", {}, {"student": 1}),
        ("sat", {"student": 10}, {"student": 1}),
        ("trades", {"student": 11}, {"student": 2}),
        ("ard", {"student": 10}, {"student": 1, "robust": 1}),
        ("iad", {"student": 10}, {"student": 2, "robust": 2}),
        ("iad-ii", {"student": 10}, {"student": 2, "robust": 1, "clean": 1}),
        ("mtard", {"student": 10}, {"student": 2, "robust": 1, "clean": 1}),
        ("rslad", {"student": 10, "robust": 1}, {"student": 2}),
        ("mmard", {"student": 10, "robust": 10}, {"student": 2, "robust": 2}),
    ],
)
def test_forwards_are_those_of_the_table(method: str, inner: dict[str, int], outer: dict[str, int]) -> None:
    reads = dry_step(game({"method": method}), Tiny(), shape=SHAPE, classes=10)
    assert (reads.inner, reads.outer) == (inner, outer)


def test_the_dry_step_counts_what_a_real_step_runs() -> None:
    counts: Counter[str] = Counter()
    student, tutor = Tiny(), teacher()

    def counted(name: str, network: nn.Module) -> Any:
        def forward(v: Tensor) -> Tensor:
            counts[name] += 1
            return network(v)

        return forward

    z = Logits(*images(), Networks(counted("student", student), {"robust": counted("robust", tutor)}))
    optimizer = sgd(student.parameters(), lr=0.1, momentum=0.9, weight_decay=0, nesterov=False)
    step(game({"method": "mmard"}), student, z, optimizer, seeded())
    assert counts == {"student": 12, "robust": 12}


class AsksTheHost(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, z: Logits) -> Tensor:
        loss = ce(z.s_adv, z.y)
        if self.how == "item":
            return loss * loss.sum().item()
        if self.how == "branch":
            return loss if loss.sum() > 0 else -loss
        if self.how == "mask":
            return loss[loss > 0]
        return loss * loss.sum().cpu()


@pytest.mark.parametrize("how", ["item", "branch", "mask", "cpu"])
def test_the_dry_step_catches_every_way_to_ask_the_host(how: str) -> None:
    sat = game({"method": "sat"})
    planted = min_max(sat.inner, AsksTheHost(how), sat.attack)
    with pytest.raises((RuntimeError, NotImplementedError)):
        dry_step(planted, Tiny(), shape=SHAPE, classes=10)


def test_adaad_is_mmard_with_alpha_zero_over_twenty_steps() -> None:
    def adaad(z: Logits) -> Tensor:
        return 0.1 * kl(z.s_adv, z.t_adv)

    mmard = game({"method": "mmard", "outer": {"alpha": 0.0}})
    student, other = Tiny().double(), Tiny().double()
    plain = min_max(adaad, adaad, mmard.attack)
    for network, played in ((student, mmard), (other, plain)):
        optimizer = sgd(network.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4, nesterov=False)
        for i in range(20):
            step(played, network, batch(network, 8, i, torch.float64), optimizer, seeded(i))
    for (name, a), b in zip(student.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_alpha_zero_and_one_differ() -> None:
    (a, _), (b, _) = (steps({"method": "mmard", "outer": {"alpha": v}}, 5) for v in (0.0, 1.0))
    assert not torch.equal(a.fc.weight, b.fc.weight)


def test_detached_and_full_teacher_gradients_give_other_points() -> None:
    full, detached = (steps({"method": "mmard", "inner": {"teacher_grad": g}}, 3)[1] for g in ("full", "detach"))
    assert full != detached


def test_a_teacher_gets_no_gradient_and_keeps_its_statistics() -> None:
    student, tutor = Tiny(), teacher()
    before = copy.deepcopy(tutor.state_dict())
    z = Logits(*images(), Networks(student, {"robust": tutor}))
    optimizer = sgd(student.parameters(), lr=0.1, momentum=0.9, weight_decay=0, nesterov=False)
    step(game({"method": "mmard"}), student, z, optimizer, seeded())
    assert all(p.grad is None for p in tutor.parameters())
    assert all(torch.equal(v, before[k]) for k, v in tutor.state_dict().items())


@pytest.mark.parametrize(("bn", "updates"), [("eval", 2), ("train", 12), ("train_frozen_stats", 2)])
def test_batchnorm_moves_as_often_as_the_method_says(bn: str, updates: int) -> None:
    student = Tiny()
    optimizer = sgd(student.parameters(), lr=0.1, momentum=0.9, weight_decay=0, nesterov=False)
    step(game({"method": "rslad", "attack_bn": bn}), student, batch(student), optimizer, seeded())
    assert int(student.bn.num_batches_tracked) == updates
    assert student.training


def test_awp_descends_at_perturbed_weights_and_returns_to_its_own() -> None:
    torch.manual_seed(0)
    student = Tiny().double()
    x, y = images(dtype=torch.float64)
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(student.fc.weight.detach().clone())
        return ce(student(x), y).mean()

    before = copy.deepcopy(student)
    grad = torch.autograd.grad(ce(before.train()(x), y).mean(), before.fc.weight)[0]
    optimizer = sgd(student.parameters(), lr=1e-3, momentum=0.0, weight_decay=0, nesterov=False)
    AdversarialWeightPerturbation(gamma=0.1).update(student.train(), closure, optimizer)
    w = before.fc.weight.detach()
    assert torch.allclose(seen[1], w + 0.1 * w.norm() * grad / grad.norm(), atol=1e-12)
    step_taken = (student.fc.weight.detach() - w).norm()
    assert 0 < float(step_taken) < 0.05 * float(0.1 * w.norm())
    assert int(student.bn.num_batches_tracked) == 1


class Counting(nn.Module):
    """A stateful outer objective: counts its own evaluations in a buffer, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, z: Logits) -> Tensor:
        self.calls.add_(1)
        return ce(z.s_adv, z.y)


def test_state_moves_once_a_step_however_often_an_update_evaluates_the_loss() -> None:
    for modifiers in ([], [AdversarialWeightPerturbation()]):
        sat, counting, student = game({"method": "sat"}), Counting(), Tiny()
        played = min_max(sat.inner, counting, sat.attack, modifiers)
        optimizer = sgd(student.parameters(), lr=0.1, momentum=0, weight_decay=0, nesterov=False)
        address = counting.calls.data_ptr()
        for _ in range(3):
            step(played, student, batch(student), optimizer, seeded())
        assert int(counting.calls) == 3
        assert counting.calls.data_ptr() == address


def test_the_dry_step_refuses_a_loss_that_is_already_reduced() -> None:
    sat = game({"method": "sat"})
    for inner, outer, which in (
        (lambda z: sat.inner(z).mean(), sat.outer, "inner"),
        (sat.inner, lambda z: sat.outer(z).mean(), "outer"),
    ):
        with pytest.raises(PluginError, match=f"{which} objective returned a loss of shape"):
            dry_step(min_max(inner, outer, sat.attack), Tiny(), shape=SHAPE, classes=10)


class Doubled(Modifier):
    """A modifier that only wraps: twice the outer loss."""

    def wrap(self, inner: Any, outer: Any) -> tuple[Any, Any]:
        return inner, lambda z: 2 * outer(z)


def test_modifiers_compose_in_order() -> None:
    sat = game({"method": "sat"})
    student = Tiny()
    optimizer = sgd(student.parameters(), lr=0.0001, momentum=0, weight_decay=0, nesterov=False)
    plain = step(sat, student, batch(student), optimizer, seeded())
    student = Tiny()
    optimizer = sgd(student.parameters(), lr=0.0001, momentum=0, weight_decay=0, nesterov=False)
    both = min_max(sat.inner, sat.outer, sat.attack, [Doubled(), Doubled()])
    assert float(step(both, student, batch(student), optimizer, seeded())) == pytest.approx(4 * float(plain))


def test_awp_leaves_frozen_and_unused_weights_alone() -> None:
    student = Tiny()
    student.conv.weight.requires_grad_(False)
    student.unused = nn.Linear(3, 3)
    played = game({"method": "sat", "with": ["awp"]})
    optimizer = sgd(student.parameters(), lr=0.1, momentum=0, weight_decay=0, nesterov=False)
    before = copy.deepcopy(student.state_dict())
    step(played, student, batch(student), optimizer, seeded())
    assert torch.equal(before["conv.weight"], student.conv.weight)
    assert torch.equal(before["unused.weight"], student.unused.weight)
    assert not torch.equal(before["fc.weight"], student.fc.weight)
    assert dry_step(played, student, shape=SHAPE, classes=10).outer == {"student": 2}


def test_two_modifiers_cannot_both_replace_the_update() -> None:
    sat = game({"method": "sat"})
    with pytest.raises(UserError, match="both replace the outer update"):
        min_max(sat.inner, sat.outer, sat.attack, [AdversarialWeightPerturbation(), AdversarialWeightPerturbation()])


def test_term_sizes_touch_nothing_and_measure_the_gradients() -> None:
    student, played = Tiny().double(), game({"method": "mmard", "outer": {"kl_scale": "batchmean"}})
    before = copy.deepcopy(student.state_dict())
    z = batch(student, dtype=torch.float64)
    values, ratios = term_sizes(played, student, z, seeded())
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert all(p.grad is None for p in student.parameters())
    assert ratios["kl"] == 1
    assert 0 < ratios["trd"] < 1
    assert set(values) == {"kl", "trd"}
    doubled = game({"method": "mmard", "outer": {"kl_scale": "batchmean", "alpha": 2.0}})
    assert term_sizes(doubled, student, z, seeded())[1]["trd"] == pytest.approx(2 * ratios["trd"])


def test_schedules() -> None:
    common: dict[str, Any] = {"lr": 0.1, "epochs": 200}
    assert lr_at(0, name="cosine", **common) == pytest.approx(0.1)
    assert lr_at(100, name="cosine", **common) == pytest.approx(0.05)
    assert lr_at(199, name="cosine", **common) < 1e-4
    drops = [lr_at(e, name="multistep", milestones=(100, 150), **common) for e in (99, 100, 149, 150, 199)]
    assert drops == pytest.approx([0.1, 0.01, 0.01, 0.001, 0.001])
    assert lr_at(7, name="constant", **common) == 0.1


def test_the_optimiser_equals_plain_sgd_and_follows_the_tensor_rate() -> None:
    a, b = Tiny().double(), Tiny().double()
    ours = sgd(a.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4, nesterov=True)
    plain = torch.optim.SGD(b.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4, nesterov=True)
    x, y = images(dtype=torch.float64)
    for lr in (0.1, 0.01):
        ours.param_groups[0]["lr"].fill_(lr)
        plain.param_groups[0]["lr"] = lr
        for network, optimizer in ((a, ours), (b, plain)):
            optimizer.zero_grad()
            torch.autograd.backward(ce(network(x), y).mean())
            optimizer.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9)
