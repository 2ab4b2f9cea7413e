"""builtin/objectives.py against the oracle, through a Logits object whose networks are tables of logits."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import gradcheck

import oracle
from robustdistill import losses
from robustdistill.builtin.objectives import register_inner_objectives, register_outer_objectives, trd
from robustdistill.errors import UserError
from robustdistill.logits import Clock, Forward, Logits, Networks, Reductions

Log = list[str]
Tables = dict[str, Tensor]
Expected = Callable[..., NDArray[np.float64]]
INNER = register_inner_objectives()
OUTER = register_outer_objectives()


def mtard(z: Logits, **params: Any) -> Tensor:
    """MTARD has state: a fresh one."""
    loss: Tensor = OUTER["mtard"](**params).double().to(z.y.device)(z)  # type: ignore[call-arg, operator, union-attr]
    return loss


ALL: dict[str, Any] = {f"inner {k}": v for k, v in INNER.items()} | {f"outer {k}": v for k, v in OUTER.items()}
ALL |= {"trd": trd, "outer mtard": mtard}
TAUGHT = ("ard", "iad", "iad-ii", "rslad", "mtard", "mmard")
SCALES = ("batchmean", "element_mean", "rslad", "sum")

# What the paper says that each objective is, with the defaults that ours promises: (s, s', t, t', y, **params) -> [B].
EXPECTED: dict[str, Expected] = {
    "inner none": lambda s, s_adv, t, t_adv, y: np.zeros(len(y)),
    "inner ce": lambda s, s_adv, t, t_adv, y: oracle.ce_inner(s_adv, y),
    "inner kl-student": lambda s, s_adv, t, t_adv, y: oracle.trades_inner(s, s_adv),
    "inner kl-teacher": lambda s, s_adv, t, t_adv, y: oracle.rslad_inner(s_adv, t),
    "inner kl-teacher-adv": lambda s, s_adv, t, t_adv, y, teacher_grad="full": oracle.mmard_inner(s_adv, t_adv),
    "outer nature": lambda s, s_adv, t, t_adv, y: oracle.nature_outer(s, y),
    "outer sat": lambda s, s_adv, t, t_adv, y: oracle.sat_outer(s_adv, y),
    "outer trades": lambda s, s_adv, t, t_adv, y, lam=6.0, kl_scale="batchmean", natural_forwards=1: (
        oracle.trades_outer(s, s_adv, y, lam=lam, scale=kl_scale)
    ),
    "outer ard": lambda s, s_adv, t, t_adv, y, kl_scale="batchmean", zero_terms=False, **params: oracle.ard_outer(
        s, s_adv, t, y, scale=kl_scale, **params
    ),
    "outer iad": lambda *logits_and_y, kl_scale="batchmean", natural_forwards=1, **params: oracle.iad_outer(
        *logits_and_y, scale=kl_scale, **params
    ),
    "outer iad-ii": lambda s, s_adv, t, t_adv, y, kl_scale="batchmean", **params: oracle.iad_ii_outer(
        s, s_adv, t_adv, t_adv, y, scale=kl_scale, **params
    ),
    "outer mtard": lambda s, s_adv, t, t_adv, y, alpha=0.5, kl_scale="rslad", dynamic=False: oracle.mtard_outer(
        s, s_adv, t, t_adv, alpha=alpha, scale=kl_scale
    ),
    "outer rslad": lambda s, s_adv, t, t_adv, y, alpha=5 / 6, kl_scale="rslad": oracle.rslad_outer(
        s, s_adv, t, alpha=alpha, scale=kl_scale
    ),
    "outer mmard": lambda *logits_and_y, alpha=1.0, kl_scale="rslad", space="prob", reduction="mean", delta=1.0: (
        oracle.mmard_outer(*logits_and_y, alpha=alpha, scale=kl_scale, space=space, reduction=reduction, delta=delta)
    ),
    "trd": oracle.trd,
}
RSLAD = [{"alpha": a, "kl_scale": k} for a, k in zip((0.0, 0.3, 0.9, 1.0), SCALES, strict=True)]
MMARD = [
    {"alpha": 0.0, "kl_scale": "batchmean"},
    {"alpha": 0.5, "kl_scale": "element_mean", "space": "logit", "delta": 0.1},
    {"alpha": 2.0, "kl_scale": "sum", "reduction": "sum", "delta": 0.05},
    {"alpha": 1.0, "kl_scale": "rslad", "space": "logit", "reduction": "sum", "delta": 0.5},
]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in EXPECTED),
    ("inner kl-teacher-adv", {"teacher_grad": "detach"}),
    ("outer trades", {"lam": 1.0, "kl_scale": "element_mean", "natural_forwards": 2}),
    ("outer trades", {"lam": 0.0}),
    ("outer ard", {"alpha": 0.4, "tau": 2.0, "kl_scale": "element_mean"}),
    ("outer ard", {"alpha": 0.4, "tau": 5.0, "ce_tau": 1.0}),
    ("outer ard", {"alpha": 0.0, "tau": 3.0}),
    ("outer ard", {"zero_terms": True}),
    ("outer iad", {"beta": 1.0, "tau": 4.0, "kl_scale": "rslad", "natural_forwards": 2}),
    ("outer iad-ii", {"alpha": 0.3, "alpha_clean": 0.7, "beta": 2.0, "tau": 3.0, "kl_scale": "element_mean"}),
    ("outer mtard", {"alpha": 0.0, "kl_scale": "batchmean"}),
    ("outer mtard", {"alpha": 0.9, "kl_scale": "element_mean"}),
    ("outer mtard", {"dynamic": True}),
    *(("outer rslad", params) for params in RSLAD),
    *(("outer mmard", params) for params in MMARD),
]
cases = pytest.mark.parametrize("name, params", CASES, ids=[" ".join(map(str, [n, *p.values()])) for n, p in CASES])


def tables(classes: int = 10, seed: int = 0, batch: int = 6, size: float = 2.0) -> tuple[Tables, Tensor]:
    """Random logits for S(x), S(x'), T(x), T(x') in float64, and labels."""
    g = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(4, batch, classes, generator=g, dtype=torch.float64)
    y = torch.randint(classes, (batch,), generator=g)
    return dict(zip(("s", "s_adv", "t", "t_adv"), logits, strict=True)), y


def tabulated(table: Tables, y: Tensor, log: Log | None = None) -> Logits:
    """A batch whose x is 0 and whose x' is 1 everywhere; its networks look their answer up and note it.

    The clean teacher answers as the robust one does, and is noted as c. Half of the epochs are over.
    """
    log = [] if log is None else log

    def look_up(name: str, noted: str = "") -> Forward:
        def forward(v: Tensor) -> Tensor:
            suffix = "_adv" if v.device.type == "cpu" and bool(v.detach().max() > 0.5) else ""
            log.append((noted or name) + suffix)
            return table[name + suffix]

        return forward

    x = torch.zeros(len(y), 1, dtype=torch.float64, device=y.device)
    clean = look_up("t", "c")
    z = Logits(x, y, Networks(look_up("s"), {"robust": look_up("t"), "clean": clean}), clock=Clock.at(1, 2, y.device))
    return z.at(torch.ones_like(x))


def smooth(seed: int = 0) -> tuple[Logits, Tensor, Forward, Forward]:
    """A batch of smooth networks S, T, with a point x' to differentiate at."""
    g = torch.Generator().manual_seed(seed)
    x, noise = torch.rand(2, 4, 5, generator=g, dtype=torch.float64)
    a, b = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    x_adv = (x + 0.1 * noise).requires_grad_()
    networks = Networks(lambda v: torch.tanh(v @ a), {"robust": lambda v: torch.sin(v @ b)})
    z = Logits(x, torch.tensor([0, 1, 2, 0]), networks).at(x_adv)
    return z, x_adv, networks.student, networks.teachers["robust"]


# ---- the oracle -----------------------------------------------------------------------------------------
@cases
def test_every_objective_equals_the_oracle(name: str, params: dict[str, Any]) -> None:
    for classes in (2, 3, 10, 100):
        for seed in range(3):
            table, y = tables(classes, seed)
            loss = ALL[name](tabulated(table, y), **params)
            assert loss.shape == (6,)
            arrays = [table[key].numpy() for key in ("s", "s_adv", "t", "t_adv")]
            expected = EXPECTED[name](*arrays, y.numpy(), **params)
            np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-10, atol=1e-10)


SCALED = [name for name, unit in ALL.items() if "kl_scale" in inspect.signature(OUTER.get(name[6:], unit)).parameters]


@pytest.mark.parametrize("name", SCALED)
def test_a_sum_is_over_the_global_batch(name: str) -> None:
    """Of twice as many examples, half of them in another process, every KL has twice the factor."""

    def terms(scale: str, processes: int = 1) -> Tables:
        z = tabulated(*tables())
        z._reductions = Reductions(size=lambda n: processes * n)
        ALL[name](z, kl_scale=scale)
        return z.terms

    mean, one, two = terms("batchmean"), terms("sum"), terms("sum", 2)
    kls = [term for term in mean if not torch.equal(mean[term], one[term])]
    assert kls
    for term in mean:
        torch.testing.assert_close(two[term], 2 * one[term] if term in kls else one[term])


def test_every_built_in_objective_has_its_oracle() -> None:
    assert set(EXPECTED) == set(ALL)


@cases
def test_gradients_of_the_student(name: str, params: dict[str, Any]) -> None:
    table, y = tables(4, seed=1, batch=3, size=1.0)

    def loss(s: Tensor, s_adv: Tensor) -> Tensor:
        s = table["s"] if name == "inner kl-student" else s  # a constant there
        return ALL[name](tabulated({**table, "s": s, "s_adv": s_adv}, y), **params) + 0 * (s + s_adv).sum(1)

    assert gradcheck(loss, (table["s"].clone().requires_grad_(), table["s_adv"].clone().requires_grad_()))


@cases
def test_examples_do_not_influence_each_other(name: str, params: dict[str, Any]) -> None:
    params = {k: v for k, v in params.items() if v != "sum"}  # `sum` means to depend on the batch size
    table, y = tables(batch=8)
    whole = ALL[name](tabulated(table, y), **params)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    for part in (order, slice(0, 3), slice(3, 8)):
        piece = ALL[name](tabulated({k: v[part] for k, v in table.items()}, y[part]), **params)
        torch.testing.assert_close(piece, whole[part], rtol=1e-13, atol=1e-13)


@cases
def test_no_objective_needs_values_on_the_host(name: str, params: dict[str, Any]) -> None:
    """On device meta `.item()`, `if tensor` and reads by mask raise."""
    table, y = tables()
    z = tabulated({k: v.to("meta").requires_grad_() for k, v in table.items()}, y.to("meta"))
    assert ALL[name](z, **params).shape == (6,)


# ---- what is run, and in which order --------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, params, forwards",
    (
        ("inner none", {}, []),
        ("inner ce", {}, ["s_adv"]),
        ("inner kl-teacher", {}, ["s_adv", "t"]),
        ("inner kl-teacher-adv", {}, ["s_adv", "t_adv"]),
        ("inner kl-teacher-adv", {"teacher_grad": "detach"}, ["s_adv", "t_adv"]),
        ("outer nature", {}, ["s"]),
        ("outer sat", {}, ["s_adv"]),
        ("inner kl-student", {}, ["s_adv", "s"]),
        ("outer trades", {}, ["s", "s_adv"]),
        ("outer trades", {"natural_forwards": 2}, ["s", "s_adv", "s"]),
        ("outer ard", {}, ["s_adv", "t"]),
        ("outer ard", {"alpha": 0.5}, ["s_adv", "s", "t"]),
        ("outer ard", {"zero_terms": True}, ["s_adv", "s", "t"]),
        ("outer iad", {}, ["s_adv", "s", "t", "t_adv"]),
        ("outer iad", {"natural_forwards": 2}, ["s_adv", "s", "s", "t", "t_adv"]),
        ("outer iad-ii", {}, ["s_adv", "s", "t_adv", "c_adv"]),
        ("outer mtard", {}, ["s_adv", "s", "c", "t_adv"]),
        ("outer mtard", {"dynamic": True}, ["s_adv", "s", "c", "t_adv"]),
        ("outer rslad", {}, ["s_adv", "s", "t"]),
        ("outer rslad", {"alpha": 1.0}, ["s_adv", "t"]),
        ("outer mmard", {}, ["s_adv", "s", "t", "t_adv"]),
        ("outer mmard", {"alpha": 0.0}, ["s_adv", "t_adv"]),
    ),
)
def test_forwards_and_the_order_of_the_students(name: str, params: dict[str, Any], forwards: list[str]) -> None:
    """Each forward once; the student's in the order in which its source updates BatchNorm: x', then x."""
    table, y = tables()
    log: Log = []
    ALL[name](tabulated(table, y, log).update(torch.ones(6, 1)), **params)
    assert sorted(log) == sorted(forwards)
    assert [f for f in log if f[0] == "s"] == [f for f in forwards if f[0] == "s"]


@pytest.mark.parametrize(
    "inner, outer, counts",
    (
        ("none", "nature", (0, 0, 1, 0)),
        ("ce", "sat", (10, 0, 1, 0)),
        ("kl-student", "trades", (11, 0, 2, 0)),
        ("ce", "ard", (10, 0, 1, 1)),
        ("ce", "iad", (10, 0, 2, 2)),
        ("ce", "mtard", (10, 0, 2, 1)),  # and the clean teacher once
        ("kl-teacher", "rslad", (10, 1, 2, 0)),
        ("kl-teacher-adv", "mmard", (10, 10, 2, 2)),
        ("kl-teacher-adv", "rslad", (10, 10, 2, 1)),
    ),
)
def test_forwards_of_a_step_with_ten_attack_steps(inner: str, outer: str, counts: tuple[int, int, int, int]) -> None:
    """Forwards of student and teacher while attacking, then while learning."""
    table, y = tables()
    log: Log = []
    z = tabulated(table, y, log)
    for _ in range(10):
        INNER[inner](z.at(torch.ones(6, 1)))
    attack = list(log)
    log.clear()
    ALL[f"outer {outer}"](z.update(torch.ones(6, 1)))
    seen = [sum(f[0] == network for f in part) for part in (attack, log) for network in "st"]
    assert tuple(seen) == counts


@pytest.mark.parametrize(
    "name", ("inner none", "inner ce", "inner kl-student", "outer nature", "outer sat", "outer trades")
)
def test_methods_without_a_teacher(name: str) -> None:
    z = Logits(torch.zeros(2, 3), torch.tensor([0, 1]), Networks(lambda v: v))
    expected = 0.0 if name in ("inner none", "inner kl-student") else np.log(3)
    assert ALL[name](z).tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize("name", ("inner kl-teacher", "inner kl-teacher-adv", *(f"outer {o}" for o in TAUGHT), "trd"))
def test_methods_that_need_a_teacher_say_so(name: str) -> None:
    z = Logits(torch.zeros(2, 3), torch.tensor([0, 1]), Networks(lambda v: v))
    with pytest.raises(UserError, match="--teacher"):
        ALL[name](z)


@pytest.mark.parametrize(
    "name, terms",
    (
        ("outer trades", ["ce", "kl"]),
        ("outer ard", ["kl"]),
        ("outer iad", ["teacher", "self"]),
        ("outer iad-ii", ["teacher", "self", "clean", "ce"]),
        ("outer rslad", ["kl_adv", "kl_nat"]),
        ("outer mtard", ["kl_adv", "kl_nat"]),
        ("outer mmard", ["kl", "trd"]),
    ),
)
def test_terms_are_noted_and_add_up(name: str, terms: list[str]) -> None:
    table, y = tables()
    z = tabulated(table, y)
    loss = ALL[name](z)
    assert list(z.terms) == terms
    torch.testing.assert_close(sum(z.terms.values()), loss, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_hyper_parameters_are_keyword_only_and_annotated(name: str) -> None:
    unit = OUTER["mtard"] if name == "outer mtard" else ALL[name]
    others = list(inspect.signature(unit).parameters.values())
    if not inspect.isclass(unit):
        assert others.pop(0).name == "z"
    for p in others:
        assert p.kind is p.KEYWORD_ONLY, p
        assert inspect.Parameter.empty not in (p.annotation, p.default), p


# ---- student equals teacher -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ("inner kl-teacher-adv", "outer mmard", "trd"))
@pytest.mark.parametrize("size", (1.0, 20.0))
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name: str, size: float) -> None:
    table, y = tables(size=size)
    copy = {"s": table["t"].clone().requires_grad_(), "s_adv": table["t_adv"].clone().requires_grad_()}
    loss = ALL[name](tabulated(table | copy, y))
    assert (loss == 0).all()
    gradients = torch.autograd.grad(loss.sum(), list(copy.values()), allow_unused=True, materialize_grads=True)
    assert all(g.abs().max() < 1e-15 for g in gradients)


@pytest.mark.parametrize("name", ("inner kl-teacher", "outer rslad"))
def test_rslad_is_zero_where_the_student_gives_the_teachers_natural_answer(name: str) -> None:
    table, y = tables()
    assert (ALL[name](tabulated(table | {"s": table["t"], "s_adv": table["t"]}, y)) == 0).all()


# ---- TRD ------------------------------------------------------------------------------------------------
def test_trd_has_no_gradient_in_the_true_class_logit() -> None:
    table, y = tables()
    table = {k: v.requires_grad_() for k, v in table.items()}
    loss = trd(tabulated(table, y))
    for gradient in torch.autograd.grad(loss.sum(), (table["s"], table["s_adv"])):
        assert (gradient.gather(1, y[:, None]) == 0).all()
        assert (gradient.abs().sum(1) > 0).all()


@pytest.mark.parametrize("space", ("prob", "logit"))
def test_trd_gives_the_teacher_no_gradient(space: losses.Space) -> None:
    table, y = tables()
    table = {k: v.requires_grad_() for k, v in table.items()}
    loss = trd(tabulated(table, y), space=space).sum()
    gradients = torch.autograd.grad(loss, list(table.values()), allow_unused=True)
    assert [g is None for g in gradients] == [False, False, True, True]


def test_trd_vanishes_for_two_classes() -> None:
    table, y = tables(classes=2)
    assert (trd(tabulated(table, y)) == 0).all()


@pytest.mark.parametrize("delta", (0.5, 1.0, 7.0))
def test_trd_is_half_the_square_for_a_delta_of_a_half_or_more(delta: float) -> None:
    table, y = tables(size=8.0, batch=64)
    z = tabulated(table, y)
    gap = losses.angle(z.t, z.t_adv, y) - losses.angle(z.s, z.s_adv, y)
    torch.testing.assert_close(trd(z, delta=delta), gap.square() / 2, rtol=1e-12, atol=0)
    assert (trd(z, delta=0.05) < gap.square() / 2 - 1e-3).any()


def test_trd_sum_makes_the_batch_mean_the_sum_of_equation_6() -> None:
    table, y = tables(batch=9)
    z = tabulated(table, y)
    torch.testing.assert_close(trd(z, reduction="sum").mean(), trd(z).sum())


# ---- alpha = 0 is AdaAD ---------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", SCALES)
def test_mmard_without_trd_is_adaad_bit_for_bit(scale: losses.KLScale) -> None:
    table, y = tables()
    leaf = table["s_adv"].requires_grad_()
    mmard = OUTER["mmard"](tabulated(table, y), alpha=0.0, kl_scale=scale)  # type: ignore[call-arg]
    adaad = losses.kl(leaf, table["t_adv"], scale=scale)
    assert torch.equal(mmard, adaad)
    got, want = (torch.autograd.grad(loss.mean(), leaf)[0] for loss in (mmard, adaad))
    assert torch.equal(got, want)


def test_the_kl_scale_leaves_trd_alone() -> None:
    table, y = tables()
    rslad, textbook = (OUTER["mmard"](tabulated(table, y), kl_scale=k) for k in ("rslad", "batchmean"))  # type: ignore[call-arg]
    triangle = trd(tabulated(table, y))
    torch.testing.assert_close(rslad - triangle, 0.1 * (textbook - triangle))


# ---- the gradient of the attack -------------------------------------------------------------------------
def test_the_full_gradient_goes_through_the_teacher() -> None:
    z, x_adv, student, teacher = smooth()
    inner = INNER["kl-teacher-adv"]
    assert gradcheck(lambda v: inner(z.at(v)), (x_adv,))
    want = torch.autograd.grad(losses.kl(student(x_adv), teacher(x_adv)).sum(), x_adv)[0]
    assert torch.equal(torch.autograd.grad(inner(z).sum(), x_adv)[0], want)


def test_the_detached_gradient_takes_the_teacher_for_a_constant() -> None:
    z, x_adv, student, teacher = smooth()
    loss = INNER["kl-teacher-adv"](z, teacher_grad="detach")  # type: ignore[call-arg]
    want = torch.autograd.grad(losses.kl(student(x_adv), teacher(x_adv).detach()).sum(), x_adv)[0]
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), x_adv)[0], want)


def test_full_and_detached_agree_in_value_and_differ_in_gradient() -> None:
    z, x_adv, _, _ = smooth()
    full, detached = (INNER["kl-teacher-adv"](z.at(x_adv), teacher_grad=g) for g in ("full", "detach"))  # type: ignore[call-arg]
    assert torch.equal(full, detached)
    one, other = (torch.autograd.grad(loss.sum(), x_adv)[0] for loss in (full, detached))
    assert (one - other).abs().max() > 0.1
    assert not torch.equal(one.sign(), other.sign())


@pytest.mark.parametrize("name", ("ce", "kl-teacher"))
def test_other_inner_objectives_have_the_gradient_of_their_value(name: str) -> None:
    z, x_adv, _, _ = smooth()
    assert gradcheck(lambda v: INNER[name](z.at(v)), (x_adv,))


# ---- TRADES, IAD, MTARD -----------------------------------------------------------------------------------
def test_trades_attack_has_no_gradient_without_a_start() -> None:
    z, _, _, _ = smooth()
    x = z.x.clone().requires_grad_()
    assert float(torch.autograd.grad(INNER["kl-student"](z.at(x)).sum(), x)[0].abs().max()) < 1e-15


def test_the_gradient_of_trades_flows_into_both_arguments_of_its_kl() -> None:
    table, y = tables()
    s, s_adv = (table[k].requires_grad_() for k in ("s", "s_adv"))
    loss = ALL["outer trades"](tabulated(table, y), lam=6.0) - losses.ce(s, y)
    want = torch.autograd.grad(6 * losses.kl(s_adv, s).sum(), [s, s_adv])
    for a, b in zip(torch.autograd.grad(loss.sum(), [s, s_adv]), want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("epoch, over", ((0, False), (59, False), (60, True), (199, True)))
def test_iad_trusts_the_teacher_until_its_beginning(epoch: int, over: bool) -> None:
    table, y = tables()
    for name, begins in (("outer iad", 60), ("outer iad-ii", 40)):
        z = tabulated(table, y)
        z._clock = Clock.at(epoch - 60 + begins if epoch >= 59 else epoch, 200)
        loss = ALL[name](z)
        assert bool((z.terms["self"] != 0).any()) == over
        assert not over or not torch.equal(loss, ALL[name](z, beta=0.0))
        assert over or torch.equal(loss, ALL[name](z, beta=0.0))


def test_iad_trust_is_a_constant_and_one_leaves_the_teacher_unweighted() -> None:
    table, y = tables()
    table["t_adv"].requires_grad_()
    assert not ALL["outer iad"](tabulated(table, y)).requires_grad
    weighted, plain = tabulated(table, y), tabulated(table, y)
    ALL["outer iad"](weighted)
    ALL["outer iad"](plain, teacher_weight="one")
    torch.testing.assert_close(plain.terms["teacher"], losses.kl(table["s_adv"], table["t"]))
    torch.testing.assert_close(
        weighted.terms["teacher"], plain.terms["teacher"] * losses.prob(table["t_adv"], y) ** 0.1
    )
    assert torch.equal(weighted.terms["self"], plain.terms["self"])


def test_two_teachers_have_each_their_own_images() -> None:
    table, y = tables()
    roles = {"robust": lambda v: table["t"] + v.mean(), "clean": lambda v: 2 * table["t"] - v.mean()}
    x = torch.zeros(len(y), 1, dtype=torch.float64)
    z = Logits(x, y, Networks(lambda v: table["s"] + v[:, :1], roles)).at(x + 1)
    loss = mtard(z, alpha=0.25, kl_scale="batchmean")
    natural = losses.kl(table["s"], 2 * table["t"])
    torch.testing.assert_close(loss, 0.25 * natural + 0.75 * losses.kl(table["s"] + 1, table["t"] + 1))


def balanced(values: list[tuple[float, float]], eta: float, drops: list[int]) -> list[float]:
    """MTARD's weight of the natural term after each step, from the batch means (natural, adversarial) of its steps."""
    w, seen = 0.5, []
    for (natural, adversarial), dropped in zip(values, drops, strict=True):
        r_n, r_a = natural / values[0][0], adversarial / values[0][1]
        w -= eta * 0.1**dropped * (w - r_n / (r_a + r_n))
        seen.append(w)
    return seen


def test_mtard_weights_follow_the_terms_in_place() -> None:
    unit: Any = OUTER["mtard"](dynamic=True, eta=0.3, milestones=(2, 3), kl_scale="batchmean").double()  # type: ignore[call-arg]
    address, values, seen, losses_seen = unit.weight.data_ptr(), [], [], []
    for epoch in range(4):
        table, y = tables(seed=epoch, size=1.0 + epoch)
        z = tabulated(table, y)
        z._clock = Clock.at(epoch, 4)
        losses_seen.append(unit(z))
        natural, adversarial = losses.kl(table["s"], table["t"]), losses.kl(table["s_adv"], table["t_adv"])
        values.append((float(natural.mean()), float(adversarial.mean())))
        seen.append(float(unit.weight))
        torch.testing.assert_close(losses_seen[-1], seen[-1] * natural + (1 - seen[-1]) * adversarial)
    assert seen == pytest.approx(balanced(values, 0.3, [0, 0, 1, 2]))
    assert len(set(seen)) == 4
    assert unit.weight.data_ptr() == address
    assert set(unit.state_dict()) == {"weight", "first"}


def test_mtard_offset_moves_the_weights_alone() -> None:
    table, y = tables(size=8.0)
    plain, offset = (
        OUTER["mtard"](dynamic=True, log_offset=e, kl_scale="batchmean").double()  # type: ignore[call-arg, union-attr]
        for e in (0.0, 1e-2)
    )
    for unit in (plain, offset):
        unit(tabulated(table, y))
    p = torch.softmax(table["t"], 1)
    published = (p * (torch.log(p + 1e-2) - torch.log_softmax(table["s"], 1))).sum(1).mean()
    assert float(offset.first[0]) == pytest.approx(float(published))
    assert float(plain.first[0]) != pytest.approx(float(published))


def test_mtard_begins_where_nothing_is_to_learn() -> None:
    """A student that is its teachers' copy: the means are 0, the weight stays where it was, and nothing is 0 / 0."""
    table, y = tables()
    unit: Any = OUTER["mtard"](dynamic=True, eta=0.3, kl_scale="batchmean").double()  # type: ignore[call-arg, union-attr]
    x = torch.zeros(len(y), 1, dtype=torch.float64)
    teachers: dict[str, Forward] = dict.fromkeys(("robust", "clean"), lambda v: table["t"])
    weights = []
    for answers in ("t", "s", "t"):
        loss = unit(Logits(x, y, Networks(lambda v, name=answers: table[name], teachers)))  # type: ignore[misc]
        assert loss.isfinite().all()
        weights.append(float(unit.weight))
    assert weights == [0.5, 0.5, 0.5]
    assert unit.first.tolist() == [float(losses.kl(table["s"], table["t"]).mean())] * 2
