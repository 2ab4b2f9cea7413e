"""The Logits object: what runs, when, how often, and what each view of a batch keeps and forgets."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustdistill.errors import UserError
from robustdistill.logits import Clock, Forward, Logits, Networks, Reductions

Log = list[tuple[str, Tensor]]
WEIGHTS = {"student": 1.0, "attacked": 1.0, "robust": 3.0, "clean": 5.0}


def network(name: str, log: Log) -> Forward:
    """A linear network that notes its name and its input in `log`."""

    def forward(v: Tensor) -> Tensor:
        log.append((name, v))
        return WEIGHTS[name] * v

    return forward


def batch(log: Log, *roles: str, attacked: bool = True, **options: object) -> Logits:
    """Two images of three pixels, with a logging student and logging teachers of these roles."""
    x = torch.arange(6.0).reshape(2, 3)
    teachers = {role: network(role, log) for role in roles}
    networks = Networks(network("student", log), teachers, network("attacked", log) if attacked else None)
    return Logits(x, torch.tensor([0, 2]), networks, **options)  # type: ignore[arg-type]


def names(log: Log) -> list[str]:
    return [name for name, _ in log]


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
def z(log: Log) -> Logits:
    return batch(log, "robust", "clean")


# ---- on demand, once ------------------------------------------------------------------------------------
def test_nothing_runs_before_it_is_read(z: Logits, log: Log) -> None:
    z.at(z.x + 1).by("clean").update(z.x + 2)
    assert (z.x_adv is z.x, z.y.tolist(), names(log)) == (True, [0, 2], [])


@pytest.mark.parametrize(
    "name, ran, adversarial",
    (("s", "attacked", False), ("s_adv", "attacked", True), ("t", "robust", False), ("t_adv", "robust", True)),
)
def test_each_tensor_is_one_forward_of_its_network(z: Logits, log: Log, name: str, ran: str, adversarial: bool) -> None:
    z = z.at(z.x + 1)
    first = getattr(z, name)
    assert getattr(z, name) is first
    assert names(log) == [ran]
    seen = z.x_adv if adversarial else z.x
    assert log[0][1] is seen
    assert torch.equal(first, WEIGHTS[ran] * seen)


def test_order_of_reads_is_order_of_forwards(z: Logits, log: Log) -> None:
    _ = z.t_adv, z.s_adv, z.t, z.s, z.s_adv
    assert names(log) == ["robust", "attacked", "robust", "attacked"]


def test_explicit_forwards_are_never_kept(z: Logits, log: Log) -> None:
    v = z.x - 1
    assert z.student(v) is not z.student(v)
    assert torch.equal(z.teacher(v), 3 * v)
    assert torch.equal(z.teacher(v, "clean"), 5 * v)
    assert torch.equal(z.by("clean").teacher(v), 5 * v)
    _ = z.student(z.x), z.teacher(z.x), z.s, z.t
    assert names(log) == [
        *("attacked", "attacked", "robust", "clean", "clean"),
        *("attacked", "robust", "attacked", "robust"),
    ]


# ---- at: the next attack step ---------------------------------------------------------------------------
def test_at_keeps_the_natural_tensors_and_forgets_the_adversarial_ones(z: Logits, log: Log) -> None:
    kept = z.s, z.t, z.once("k", z.x.sum)
    gone = z.s_adv, z.t_adv
    log.clear()
    x_adv = z.x + 1
    step = z.at(x_adv)
    assert step.x_adv is x_adv
    assert all(a is b for a, b in zip(kept, (step.s, step.t, step.once("k", z.x.mean)), strict=True))
    assert names(log) == []
    assert torch.equal(step.s_adv, x_adv)
    assert torch.equal(step.t_adv, 3 * x_adv)
    assert names(log) == ["attacked", "robust"]
    assert (z.x_adv is z.x, z.s_adv is gone[0], z.t_adv is gone[1]) == (True, True, True)


@pytest.mark.parametrize("read", (lambda z: z.s, lambda z: z.t, lambda z: z.once("k", z.x.clone)))
def test_a_first_read_inside_one_step_is_seen_by_the_next(
    z: Logits, log: Log, read: Callable[[Logits], Tensor]
) -> None:
    first = read(z.at(z.x + 1))
    count = len(log)
    assert read(z.at(z.x + 2)) is first
    assert read(z) is first
    assert len(log) == count


def test_ten_attack_steps_cost_what_they_read(z: Logits, log: Log) -> None:
    for step in range(10):
        here = z.at(z.x + step)
        _ = here.s_adv, here.t, here.s_adv
    assert (names(log).count("attacked"), names(log).count("robust")) == (10, 1)


# ---- update: the learning phase -------------------------------------------------------------------------
def test_update_keeps_the_teacher_and_runs_the_learning_student_again(z: Logits, log: Log) -> None:
    t, once = z.t, z.once("k", z.x.sum)
    _ = z.s, z.s_adv, z.t_adv
    assert names(log).count("student") == 0
    log.clear()
    learning = z.update(z.x)
    assert (learning.t is t, learning.once("k", z.x.mean) is once) == (True, True)
    _ = learning.s_adv, learning.s, learning.t_adv, learning.student(z.x), learning.at(z.x).s_adv
    assert names(log) == ["student", "student", "robust", "student", "student"]


def test_update_leaves_the_attacks_view_alone(z: Logits, log: Log) -> None:
    s = z.s
    _ = z.update(z.x).s
    assert z.s is s
    assert names(log) == ["attacked", "student"]


def test_every_update_is_a_fresh_one(z: Logits, log: Log) -> None:
    """A closure that is called twice (AWP) runs the student twice and T(x) once."""
    for _ in range(2):
        learning = z.update(z.x + 1)
        _ = learning.s_adv, learning.s, learning.t
    assert (names(log).count("student"), names(log).count("robust")) == (4, 1)


def test_without_a_separate_graph_the_student_is_attacked_itself(log: Log) -> None:
    z = batch(log, attacked=False)
    _ = z.s, z.update(z.x).s
    assert names(log) == ["student", "student"]


# ---- by: another teacher in the T seat ------------------------------------------------------------------
def test_by_reads_the_other_teacher_once(z: Logits, log: Log) -> None:
    assert torch.equal(z.by("clean").t, 5 * z.x)
    assert z.by("clean").t is z.by("clean").t
    assert z.by("clean").t_adv is z.by("clean").t_adv
    assert torch.equal(z.t, 3 * z.x)
    assert torch.equal(z.t_adv, 3 * z.x)
    assert z.by("robust").t is z.t
    assert names(log) == ["clean", "clean", "robust", "robust"]


def test_by_shares_everything_else(z: Logits, log: Log) -> None:
    z = z.at(z.x + 1)
    other = z.by("clean")
    assert (other.s is z.s, other.s_adv is z.s_adv) == (True, True)
    assert (other.x_adv is z.x_adv, other.once("k", z.x.sum) is z.once("k", z.x.sum)) == (True, True)
    assert names(log) == ["attacked", "attacked"]


def test_by_keeps_its_tensors_through_at_and_update(z: Logits, log: Log) -> None:
    clean = z.by("clean")
    t, t_adv = clean.t, clean.t_adv
    assert clean.at(z.x + 1).t is t
    assert z.at(z.x + 1).by("clean").t is t
    assert z.update(z.x + 1).by("clean").t is t
    assert z.at(z.x + 1).by("clean").t_adv is not t_adv
    assert names(log) == ["clean", "clean", "clean"]


# ---- gradients ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, weight", (("s_adv", 1.0), ("t_adv", 3.0)))
def test_a_first_read_inside_no_grad_still_carries_a_graph(z: Logits, name: str, weight: float) -> None:
    x_adv = (z.x + 1).requires_grad_()
    z = z.at(x_adv)
    with torch.no_grad():
        getattr(z, name)
    gradient = torch.autograd.grad(getattr(z, name).sum(), x_adv)[0]
    assert torch.equal(gradient, torch.full_like(x_adv, weight))


def test_explicit_forwards_inside_no_grad_carry_a_graph(z: Logits) -> None:
    v = z.x.clone().requires_grad_()
    with torch.no_grad():
        outputs = z.student(v), z.teacher(v), z.update(v).student(v)
        assert not torch.is_grad_enabled()
    assert all(output.requires_grad for output in outputs)


# ---- errors ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "read", (lambda z: z.t, lambda z: z.t_adv, lambda z: z.teacher(z.x), lambda z: z.by("clean").t)
)
def test_a_missing_teacher_is_a_sentence(log: Log, read: Callable[[Logits], Tensor]) -> None:
    with pytest.raises(UserError, match=r"reads a teacher .* name one with --teacher") as error:
        read(batch(log))
    assert error.value.exit_code == 2


@pytest.mark.parametrize("read", (lambda z: z.by("clean").t, lambda z: z.teacher(z.x, "clean")))
def test_a_missing_role_is_named_beside_those_present(log: Log, read: Callable[[Logits], Tensor]) -> None:
    with pytest.raises(UserError, match=r"'clean'; the run has: peer, robust\. Add --teacher clean="):
        read(batch(log, "robust", "peer"))


def test_an_error_inside_a_teacher_is_not_a_missing_teacher() -> None:
    def broken(v: Tensor) -> Tensor:
        raise KeyError("conv1")

    x = torch.zeros(1, 3)
    with pytest.raises(KeyError, match="conv1"):
        _ = Logits(x, torch.tensor([0]), Networks(broken, {"robust": broken})).t


def test_a_method_without_a_teacher_needs_none(log: Log) -> None:
    z = batch(log)
    assert torch.equal(z.s + z.s_adv, 2 * z.x)


# ---- time, reductions, terms ----------------------------------------------------------------------------
@pytest.mark.parametrize("epoch, epochs", ((0, 300), (75, 300), (299, 300), (1, 3)))
def test_progress_is_epoch_over_epochs(log: Log, epoch: int, epochs: int) -> None:
    z = batch(log, clock=Clock.at(epoch, epochs)).update(torch.zeros(2, 3))
    assert (z.epoch.item(), z.epochs.item()) == (epoch, epochs)
    assert z.progress.item() == pytest.approx(epoch / epochs)
    assert z.progress.shape == ()


def test_without_a_clock_training_has_not_begun(z: Logits) -> None:
    assert (z.epoch.item(), z.progress.item()) == (0, 0)


def test_the_clock_is_read_when_asked(log: Log) -> None:
    """A replayed step sees the epoch that was written into the clock's tensor, in place."""
    clock = Clock.at(0, 4)
    z = batch(log, clock=clock)
    clock.epoch.fill_(3)
    assert z.progress.item() == 0.75


def test_reductions_are_local_unless_given(log: Log) -> None:
    v = torch.tensor([1.0, 2.0, 6.0])
    z = batch(log)
    assert (z.mean(v).item(), z.min(v).item()) == (3, 1)
    given = batch(log, reductions=Reductions(mean=torch.sum, min=torch.amax)).at(v).update(v)
    assert (given.mean(v).item(), given.min(v).item()) == (9, 6)


def test_a_term_is_noted_and_returned_as_it_is(z: Logits) -> None:
    a, b = torch.ones(2), torch.zeros(2)
    assert z.term("kl", a) is a
    assert z.by("clean").term("trd", b) is b
    assert (list(z.terms), z.terms["kl"] is a, z.terms["trd"] is b) == (["kl", "trd"], True, True)


def test_update_starts_without_terms(z: Logits) -> None:
    z.term("attack", torch.ones(2))
    learning = z.update(z.x)
    assert learning.terms == {}
    learning.term("kl", torch.ones(2))
    assert list(z.terms) == ["attack"]
