"""robustdistill.testing: every check catches a planted defect, and every built-in unit passes every check."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import defects
import robustdistill as rd
from robustdistill import testing
from robustdistill.losses import ce, kl
from robustdistill.plugins import Plugin
from robustdistill.registry import KINDS, Registry, default_registry
from robustdistill.testing import checks
from robustdistill.testing.attacks import ATTACK_CHECKS, AttackCase
from robustdistill.testing.case import Case
from robustdistill.testing.checks import FAILS, NONE, examine, name_of, promise
from robustdistill.testing.methods import METHOD_CHECKS, MethodCase
from robustdistill.testing.models import MODEL_CHECKS, ModelCase
from robustdistill.testing.modifiers import MODIFIER_CHECKS, ModifierCase
from robustdistill.testing.objectives import OBJECTIVE_CHECKS
from robustdistill.testing.plugin import CHECKS, check_plugin
from robustdistill.testing.records import DATASET_CHECKS, TEACHER_CHECKS, RecordCase
from robustdistill.types import Attack, Augment, Dataset, Method, Modifier, Recipe, Split, Splits, Teacher, Variant

REGISTRY = default_registry()


def failing(subject: Any, checks: Any) -> dict[str, str]:
    return {f.check: f.sentence for f in examine(subject, checks) if f.state == FAILS}


def only(found: dict[str, str], check: str, unit: str, sentence: str) -> None:
    """That check has found it, said what is wrong with what, and no other one fails without need."""
    assert sentence in found[check]
    assert unit in found[check]
    assert set(found) - {check} <= defects.ALSO.get(unit, set())


def ids(table: list[tuple[Any, ...]]) -> list[str]:
    named = (getattr(row[-2], "__name__", getattr(row[-2], "summary", "")) for row in table)
    return [f"{row[0]} {name}" for row, name in zip(table, named, strict=True)]


# ---- planted defects ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("check", "role", "unit", "sentence"), defects.OBJECTIVES, ids=ids(defects.OBJECTIVES))
def test_a_defect_of_an_objective_is_caught(check: str, role: str, unit: Any, sentence: str) -> None:
    only(failing(Case(unit, role), OBJECTIVE_CHECKS), check, unit.__name__, sentence)


@pytest.mark.parametrize(("check", "unit", "sentence"), defects.ATTACKS, ids=ids(defects.ATTACKS))
def test_a_defect_of_an_attack_is_caught(check: str, unit: Any, sentence: str) -> None:
    attack = unit if isinstance(unit, Attack) else Attack(unit)
    only(failing(AttackCase(attack), ATTACK_CHECKS), check, attack.run.__name__, sentence)


@pytest.mark.parametrize(("check", "model", "sentence"), defects.MODELS, ids=ids(defects.MODELS))
def test_a_defect_of_a_model_is_caught(check: str, model: Any, sentence: str) -> None:
    only(failing(ModelCase(model, {}, "the-model"), MODEL_CHECKS), check, "the-model", sentence)


@pytest.mark.parametrize(("check", "unit", "sentence"), defects.MODIFIERS, ids=ids(defects.MODIFIERS))
def test_a_defect_of_a_modifier_is_caught(check: str, unit: Any, sentence: str) -> None:
    only(failing(ModifierCase(unit), MODIFIER_CHECKS), check, unit.__name__, sentence)


def nan(z: Any) -> Tensor:
    """Not finite from the second batch on."""
    return ce(z.s_adv, z.y) * torch.where(z.y.sum() > 0, torch.nan, 1.0)


QUICK = Recipe(epochs=2, schedule="constant")
METHODS = {
    "names": Method("ce", "nobody", "an outer objective that does not exist", recipe=QUICK),
    "summary": Method("ce", "sat", "", recipe=QUICK),
    "recipe": Method("ce", "sat", "drops after its end", recipe=Recipe(epochs=10, milestones=(20,))),
    "variants": Method(
        "ce", "sat", "a variant that is none", recipe=QUICK, variants={"v": Variant({"outr": 1}, ("x",))}
    ),
    "meta": Method("ce", "host", "asks the host", recipe=QUICK),
    "trains": Method("ce", "nan", "diverges", recipe=QUICK),
}
SPLIT = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
DATA = Dataset(
    lambda _: Splits(SPLIT, SPLIT, SPLIT), tuple("abcd"), 1, 8, 0.1, Augment(), "digits-net", "digits-robust"
)


def drawn(_: Path | None) -> Splits:
    y = torch.randint(4, (64,), generator=torch.Generator().manual_seed(torch.seed() % 1000))
    split = Split(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), y)
    return Splits(split, split, split)


TEACHERS = {
    "names": Teacher("nobody-net", None, "digits"),
    "measured": Teacher("digits-net", None, "digits", clean=98.0),
    "loads": dataclasses.replace(REGISTRY.get("teacher", "digits-robust"), sha256="0" * 64),
}
DATASETS = {
    "layer": dataclasses.replace(DATA, student="nobody-net"),
    "splits": dataclasses.replace(DATA, classes=tuple("abc")),
    "same-again": dataclasses.replace(DATA, load=drawn),
}


def knowing(hook: str, unit: Any) -> Registry:
    """The built-ins and `unit` under the name "planted"."""
    outer = {"nan": nan, "host": defects.reading}
    plugin = Plugin("planted", "planted", "1", {hook: {"planted": unit}, "register_outer_objectives": outer})
    return Registry([*REGISTRY.plugins, plugin])


@pytest.mark.parametrize("check", METHODS)
def test_a_defect_of_a_method_is_caught(check: str) -> None:
    case = MethodCase("planted", knowing("register_methods", METHODS[check]))
    assert "planted" in failing(case, METHOD_CHECKS)[check]


@pytest.mark.parametrize("check", TEACHERS)
def test_a_defect_of_a_teacher_is_caught(check: str) -> None:
    case = RecordCase("planted", knowing("register_teachers", TEACHERS[check]))
    assert "planted" in failing(case, TEACHER_CHECKS)[check]


@pytest.mark.parametrize("check", DATASETS)
def test_a_defect_of_a_data_set_is_caught(check: str) -> None:
    case = RecordCase("planted", knowing("register_datasets", DATASETS[check]))
    assert "planted" in failing(case, DATASET_CHECKS)[check]


def test_a_name_that_is_none_is_caught() -> None:
    plugin = Plugin("planted", "planted", "1", {"register_methods": {"My_Method": METHODS["trains"]}})
    rows = check_plugin(plugin, Registry([*REGISTRY.plugins, plugin]))
    assert next(rows).finding.sentence.startswith("'My_Method' is no name")


def test_every_check_has_its_planted_defect() -> None:
    planted = {
        "outer": {check for check, *_ in defects.OBJECTIVES},
        "attack": {check for check, *_ in defects.ATTACKS},
        "model": {check for check, *_ in defects.MODELS},
        "modifier": {check for check, *_ in defects.MODIFIERS},
        "method": set(METHODS),
        "teacher": set(TEACHERS),
        "dataset": set(DATASETS),
    }
    for kind, found in planted.items():
        assert found == {name_of(check) for check in CHECKS[kind]}, kind
    assert set(CHECKS) == set(KINDS)


def test_every_check_says_what_it_holds() -> None:
    for found in CHECKS.values():
        assert all(promise(check).endswith(".") for check in found)


# ---- the built-ins ------------------------------------------------------------------------------------------
UNITS = [(kind, name) for kind in KINDS for name in REGISTRY.names(kind)]


@pytest.mark.parametrize(("kind", "name"), UNITS, ids=[" ".join(u) for u in UNITS])
def test_every_built_in_keeps_its_contract(kind: str, name: str) -> None:
    origin = REGISTRY.entry(kind, name).origin if "{" not in name else None
    plugins = [p for p in REGISTRY.plugins if name in p.provides.get(KINDS[kind], {})]
    assert origin in (None, plugins[0].origin)
    rows = [r for r in check_plugin(plugins[0], REGISTRY, (), name) if r.kind == kind]
    assert len(rows) == 1 + (1 if ":{" in name else len(CHECKS[kind]))
    assert not [f"{r.finding.check}: {r.finding.sentence}" for r in rows if r.finding.state == FAILS]


# ---- the functions ------------------------------------------------------------------------------------------
def test_a_sound_unit_of_each_kind_passes() -> None:
    testing.check_objective(defects.mute, skip=["docstring"])
    testing.check_objective(REGISTRY.get("outer", "mmard"), alpha=0.5, space="logit", kl_scale="batchmean")
    testing.check_objective(REGISTRY.get("inner", "kl-teacher-adv"), "inner", teacher_grad="detach")
    testing.check_objective(REGISTRY.get("outer", "mtard"), dynamic=True)
    testing.check_model(REGISTRY.get("model", "timm:{network}"), network="test_resnet")
    testing.check_attack(defects.step)
    testing.check_attack(REGISTRY.get("attack", "pgd"), steps=2, start="gaussian")
    testing.check_model(REGISTRY.get("model", "digits-net"), width=4)
    testing.check_modifier(REGISTRY.get("modifier", "awp"), gamma=0.05)
    testing.check_method("sat")


def test_a_record_of_a_method_is_checked_as_if_it_were_registered() -> None:
    testing.check_method(Method("ce", "sat", "the same", recipe=QUICK))
    with pytest.raises(AssertionError, match="unknown outer 'nobody'"):
        testing.check_method(METHODS["names"])


def test_all_that_fails_is_told_at_once() -> None:
    with pytest.raises(AssertionError) as caught:
        rd.testing.check_objective(defects.positional, skip=["meta"], alpha=float("nan"))
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()][:2] == ["signature", "finite"]


def test_a_unit_that_raises_is_told_once_with_its_place() -> None:
    def broken(z: Any, *, missing: float = 1.0) -> Tensor:
        """Raises."""
        raise KeyError("what")

    with pytest.raises(AssertionError, match=r"shape: broken raised KeyError: 'what' \(test_testing\.py:\d+\)$"):
        testing.check_objective(broken)


def test_a_check_that_does_not_exist_cannot_be_skipped() -> None:
    with pytest.raises(ValueError, match="there is no check gradients to skip; there are: signature, docstring, "):
        testing.check_objective(defects.mute, skip=["gradients"])


def test_what_is_broken_on_purpose_is_skipped() -> None:
    with pytest.raises(AssertionError, match="gradient: misdifferentiated has the slope"):
        testing.check_objective(defects.misdifferentiated)
    testing.check_objective(defects.misdifferentiated, skip=["gradient"])


def test_what_cannot_be_told_after_a_basic_defect_is_named_and_not_checked() -> None:
    *_, last = examine(Case(defects.dropping), OBJECTIVE_CHECKS)
    assert (last.check, last.state) == ("the rest", NONE)
    assert "gradient, reaches" in last.sentence


def test_a_unit_without_parameters_need_not_write_a_constructor() -> None:
    class Quiet(Modifier):
        """Changes nothing."""

    class Plain(nn.Module):
        """CE(S(x'), y)."""

        def forward(self, z: Any) -> Tensor:
            return ce(z.s_adv, z.y)

    testing.check_modifier(Quiet)
    testing.check_objective(Plain)


def test_state_that_moves_with_each_batch_is_no_wrong_gradient() -> None:
    class Ramp(nn.Module):
        """CE(S(x'), y) times the number of batches."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(()))

        def forward(self, z: Any) -> Tensor:
            self.n.add_(1)
            return ce(z.s_adv, z.y) * self.n.clone()

    testing.check_objective(Ramp)


def test_a_gradient_of_ones_own_is_compared_with_finite_differences() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, v: Tensor) -> Tensor:
            with torch.no_grad():
                ctx.save_for_backward(v)
                return v.square()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            (v,) = ctx.saved_tensors
            return 2 * v * grads[0]

    def squared(z: Any) -> Tensor:
        """CE(S(x'), y)^2."""
        with torch.no_grad():
            weight = z.s.softmax(1).amax(1)
        return weight * Square.apply(ce(z.s_adv, z.y))  # type: ignore[no-any-return, no-untyped-call]

    testing.check_objective(squared)


def test_declared_constants_are_constant_for_finite_differences() -> None:
    def weighted(z: Any) -> Tensor:
        """A weight by `detach`, one by `no_grad`, one by a gradient without graph, and one by `.data`."""
        with torch.no_grad():
            w = z.s.softmax(1).amax(1)
        (g,) = torch.autograd.grad(kl(z.s_adv, z.t).sum(), z.s_adv, retain_graph=True)
        return (w + g.norm(dim=1) + z.s_adv.detach()[:, 0].abs() + z.s.data[:, 1].square()) * ce(z.s_adv, z.y)

    testing.check_objective(weighted)


def test_examples_may_meet_by_the_means_of_the_batch() -> None:
    def centred(z: Any) -> Tensor:
        """Above the mean of the batch."""
        loss = ce(z.s_adv, z.y)
        return loss * loss.detach() / z.mean(loss.detach())

    found = {f.check: f for f in examine(Case(centred), OBJECTIVE_CHECKS)}
    assert (found["examples"].state, found["examples"].sentence) == (NONE, "it reads the whole batch by z.mean")
    assert not failing(Case(centred), OBJECTIVE_CHECKS)


def test_checks_hold_without_assertions() -> None:
    with pytest.raises(AssertionError, match="so it is"):
        checks.hold(False, "so it is")
    source = Path(checks.__file__).parent
    assert not [p.name for p in source.glob("*.py") if "    assert " in p.read_text()]
