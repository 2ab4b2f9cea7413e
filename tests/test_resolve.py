"""From what a user wrote to a complete spec: precedence, what a name discards, shorthands, variants, sentences."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdistill.errors import UserError
from robustdistill.located import locate_teacher
from robustdistill.plugins import Plugin
from robustdistill.registry import Registry, default_registry
from robustdistill.resolve import advice, joined, method_layer, resolve
from robustdistill.spec import Node, RunSpec, from_layer, load_layer, set_layer
from robustdistill.types import Method, Recipe, Variant

REGISTRY = default_registry()
METHODS = REGISTRY.units("method")
VARIANTS = [name for base, m in METHODS.items() for name in (base, *(f"{base}@{v}" for v in ["paper", *m.variants]))]
INNER, OUTER = REGISTRY.names("inner"), REGISTRY.names("outer")


def made(*layers: Mapping[str, Any]) -> RunSpec:
    return resolve(layers, REGISTRY)


def refused(*layers: Mapping[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        made(*layers)
    return str(caught.value)


def defaults(kind: str, name: str) -> dict[str, Any]:
    return REGISTRY.params(kind, name, {}, "")


# ---- precedence -------------------------------------------------------------------------------------------
def test_without_a_word_it_is_mmard_on_digits() -> None:
    spec = made()
    assert (spec.method, spec.data.name, spec.student.name, spec.eps) == ("mmard", "digits", "digits-net", 0.2)
    assert (spec.inner.name, spec.outer.name, spec.data.augment.pad) == ("kl-teacher-adv", "mmard", 1)


def test_each_layer_speaks_over_the_one_below(tmp_path: Path) -> None:
    files = tmp_path / "first.toml", tmp_path / "second.toml"
    files[0].write_text("epochs = 20\nbatch_size = 20\n[optim]\nlr = 0.2\nmomentum = 0.2\nweight_decay = 0.2")
    files[1].write_text("epochs = 30\nbatch_size = 30\n[optim]\nlr = 0.3\nmomentum = 0.3")
    layers = [load_layer(files[0]), load_layer(files[1]), set_layer(["epochs=40", "batch_size=40", "optim.lr=0.4"])]
    spec = made(*layers, {"epochs": 50})
    assert (spec.epochs, spec.batch_size) == (50, 40)
    assert (spec.optim.lr, spec.optim.momentum, spec.optim.weight_decay) == (0.4, 0.3, 0.2)
    assert spec.schedule.name == "cosine"  # the method's


def test_a_method_speaks_over_the_data_set_and_a_user_over_both() -> None:
    method = Method(
        "ce", "sat", "", recipe=Recipe(epochs=7), variants={"wide": Variant({"eps": 0.3, "student": "rn-18"})}
    )
    registry = Registry([*REGISTRY.plugins, Plugin("x", "x", "1", {"register_methods": {"wide-sat": method}})])
    assert resolve([{"method": "wide-sat"}], registry).eps == 0.2
    spec = resolve([{"method": "wide-sat@wide"}], registry)
    assert (spec.eps, spec.student.name, spec.epochs) == (0.3, "rn-18", 7)
    spec = resolve([{"method": "wide-sat@wide", "eps": 0.1, "epochs": 8, "student": "digits-net"}], registry)
    assert (spec.eps, spec.student.name, spec.epochs) == (0.1, "digits-net", 8)


@given(st.lists(st.none() | st.integers(0, 9), max_size=6))
def test_the_last_layer_that_speaks_wins(seeds: list[int | None]) -> None:
    layers = [{} if seed is None else {"seed": seed, "data": {"augment": {"pad": seed}}} for seed in seeds]
    spoken = [seed for seed in seeds if seed is not None]
    spec = made(*layers)
    assert (spec.seed, spec.data.augment.pad) == ((spoken[-1], spoken[-1]) if spoken else (0, 1))


def test_tables_are_merged_and_lists_are_replaced() -> None:
    low = {"data": {"augment": {"pad": 3}}, "with": ["awp"], "schedule": {"name": "multistep", "milestones": [1, 2]}}
    spec = made(low, {"data": {"augment": {"flip": True}}, "with": [], "schedule": {"milestones": [3]}})
    assert (spec.data.augment.pad, spec.data.augment.flip) == (3, True)
    assert (spec.modifiers, spec.schedule.milestones) == ((), (3,))


def test_layers_are_left_as_they_were() -> None:
    layer = {"teacher": "a", "with": "awp", "outer": {"alpha": 0.5}}
    made(layer, {"outer": "rslad"})
    assert layer == {"teacher": "a", "with": "awp", "outer": {"alpha": 0.5}}


# ---- naming another unit discards -------------------------------------------------------------------------
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("method", VARIANTS)
def test_another_objective_comes_with_its_own_defaults(method: str, inner: str, outer: str) -> None:
    own = made({"method": method})
    for spec in (made({"method": method, "inner": inner, "outer": outer}), made(own_file(own), named(inner, outer))):
        same_inner, same_outer = inner == own.inner.name, outer == own.outer.name
        assert spec.inner == (own.inner if same_inner else Node(name=inner, **defaults("inner", inner)))
        assert spec.outer == (own.outer if same_outer else Node(name=outer, **defaults("outer", outer)))
        assert spec.attack == own.attack


def named(inner: str, outer: str) -> dict[str, Any]:
    return {"inner": inner, "outer": outer}


def own_file(spec: RunSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_mmard_with_rslads_outer_is_rslad_and_nothing_of_mmards() -> None:
    for layers in ([{"method": "mmard", "outer": "rslad"}], [{"method": "mmard"}, {"outer": {"name": "rslad"}}]):
        assert made(*layers).outer.params == {"alpha": 5 / 6, "kl_scale": "rslad"}


@pytest.mark.parametrize("node", ["inner", "outer"])
@pytest.mark.parametrize("method", METHODS)
def test_parameters_of_a_file_go_with_the_unit_that_it_names_or_implies(method: str, node: str) -> None:
    own = getattr(METHODS[method], node)
    poison = {"alpha": 0.25} if "alpha" in defaults(node, own) else {}
    for other in REGISTRY.names(node):
        for low in ({node: {"name": own, **poison}}, {"method": method, node: poison}):
            unit = getattr(made({"method": method}, low, {node: other}), node)
            base = getattr(made({"method": method}), node).params
            assert unit == Node(name=other, **({**base, **poison} if other == own else defaults(node, other)))


def test_nameless_parameters_wait_for_a_name_until_a_method_is_named() -> None:
    alpha = {"outer": {"alpha": 0.25}}
    assert made(alpha).outer.params["alpha"] == 0.25
    assert made(alpha, {"outer": "rslad"}).outer.params["alpha"] == 0.25
    assert made(alpha, {"method": "rslad"}).outer.params["alpha"] == 0.25
    assert made({"method": "mmard", **alpha}, {"outer": "mmard"}).outer.params["alpha"] == 0.25
    assert made({"method": "mmard", **alpha}, {"outer": "rslad"}).outer.params["alpha"] == 5 / 6
    assert made({"method": "mmard"}, alpha, {"outer": "rslad"}).outer.params["alpha"] == 5 / 6


def test_nameless_parameters_of_a_student_go_with_the_data_sets_own() -> None:
    wide = {"data": "digits", "student": {"width": 48}}
    assert made(wide, {"student": "digits-net"}).student.params == {"width": 48}
    assert made(wide, {"student": "wrn-16-2"}).student.params == {"depth": 16, "width": 2, "dead_block": False}


def test_two_layers_of_one_command_are_joined() -> None:
    command = joined(set_layer(["outer.alpha=0.25", "epochs=3"]), {"outer": "rslad", "epochs": 4, "teacher": "a"})
    spec = made({"method": "mmard", "outer": {"alpha": 2.0, "delta": 0.3}}, command)
    assert spec.outer.params == {"alpha": 0.25, "kl_scale": "rslad"}
    assert (spec.epochs, spec.teachers["robust"].name) == (4, "a")


@pytest.mark.parametrize("key", ["attack", "schedule", "average", "student"])
def test_every_node_forgets_with_its_name(key: str) -> None:
    low, high, left = {
        "attack": ({"name": "pgd", "steps": 3, "step": 0.5}, "fgsm", {"steps": 1, "step": "eps", "start": "none"}),
        "schedule": ({"name": "multistep", "milestones": [1]}, "constant", {"milestones": []}),
        "average": ({"name": "ema", "decay": 0.5}, "swa", {"decay": 0.999}),
        "student": ({"name": "digits-net", "width": 3}, "rn-18", {}),
    }[key]
    found = made({key: low}, {key: high}).model_dump(mode="json")[key]
    assert found.items() >= {"name": high, **left}.items()
    assert "width" not in found


def test_teachers_are_merged_by_role_and_forget_with_their_name() -> None:
    low = {"teachers": {"clean": {"name": "a", "width": 1}, "robust": {"name": "b", "width": 2}}}
    spec = made(low, {"teachers": {"clean": {"width": 3}, "robust": "c"}, "data": "digits"})
    assert {role: t.model_dump() for role, t in spec.teachers.items()} == {
        "clean": {"name": "a", "width": 3},
        "robust": {"name": "c"},
    }


def test_another_method_discards_the_objectives_and_the_attack() -> None:
    low = {
        "method": "mmard",
        "inner": "ce",
        "outer": {"name": "rslad", "alpha": 0.5},
        "attack": {"name": "fgsm"},
        "attack_bn": "train",
        "with": ["awp"],
        "epochs": 9,
        "optim": {"lr": 0.5},
    }
    spec, sat = made(low, {"method": "sat"}), made({"method": "sat"})
    for node in ("inner", "outer", "attack", "attack_bn", "modifiers"):
        assert getattr(spec, node) == getattr(sat, node)
    assert (spec.epochs, spec.optim.lr) == (9, 0.5)
    assert made(low, {"method": "mmard"}).outer.params["alpha"] == 0.5


def test_what_comes_with_the_other_method_is_kept() -> None:
    spec = made({"method": "mmard", "outer": "rslad"}, {"method": "sat", "outer": "nature"}, {"inner": "none"})
    assert (spec.inner.name, spec.outer.name) == ("none", "nature")


def test_an_unknown_method_that_is_overruled_does_no_harm() -> None:
    assert made({"method": "theirs", "outer": {"name": "their-loss", "x": 1}}, {"method": "sat"}).outer.name == "sat"


def test_other_data_discards_what_belongs_to_data() -> None:
    low = {
        "data": {"name": "cifar10", "dir": "images", "augment": {"pad": 9}},
        "eps": 0.5,
        "student": "rn-18",
        "teachers": {"clean": "wrn-34-10", "robust": "wrn-34-10"},
        "epochs": 9,
    }
    spec, digits = made(low, {"data": "digits"}), made({"data": "digits"})
    for key in ("data", "eps", "student", "teachers"):
        assert getattr(spec, key) == getattr(digits, key)
    assert spec.epochs == 9
    assert made(low, {"data": "cifar10"}).data.dir == "images"
    spec = made(low, {"data": "digits", "eps": 0.1, "teacher": "a"})
    assert (spec.eps, spec.teachers) == (0.1, {"robust": Node(name="a")})


# ---- shorthands -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"teacher": "rn-18"}, {"teachers": {"robust": {"name": "rn-18"}}}),
        ({"teacher": {"name": "rn-18"}}, {"teachers": {"robust": "rn-18"}}),
        ({"teacher": "a", "teachers": {"clean": "b"}}, {"teachers": {"clean": {"name": "b"}, "robust": "a"}}),
        ({"with": "awp"}, {"with": [{"name": "awp"}]}),
        ({"with": " awp ,"}, {"with": [{"name": "awp"}]}),
        ({"with": ["awp"]}, {"modifiers": [{"name": "awp", "gamma": 0.01}]}),
        ({"with": {"name": "awp"}}, {"with": ("awp",)}),
        ({"with": ""}, {}),
        ({"inner": "ce"}, {"inner": {"name": "ce"}}),
        ({"data": "digits"}, {"data": {"name": "digits"}}),
        ({"data": "digits"}, {}),
        ({"select": "test"}, {"select": {"split": "test"}}),
        ({"schedule": "constant"}, {"schedule": {"name": "constant"}}),
        ({"average": "ema"}, {"average": {"name": "ema"}}),
        ({"student": "rn-18"}, {"student": {"name": "rn-18"}}),
    ],
)
def test_shorthands_are_their_long_forms(short: dict[str, Any], long: dict[str, Any]) -> None:
    assert made(short) == made(long)
    assert made(short).to_toml() == made(long).to_toml()


# ---- variants and the command of the paper ----------------------------------------------------------------
def test_variants_change_what_they_say() -> None:
    sat, official = made({"method": "sat"}), made({"method": "sat@official"})
    assert (sat.attack_bn, sat.epochs, sat.schedule.milestones) == ("eval", 200, (100, 150))
    assert (official.attack_bn, official.epochs, official.schedule.milestones) == ("train", 205, (102, 154))
    assert official.schedule.name == "multistep"
    changes = METHODS["mmard"].variants["literal"].changes["outer"]
    assert made({"method": "mmard@literal"}).outer.params.items() >= changes.items()
    assert made({"method": "mmard@literal"}).outer != made({"method": "mmard"}).outer
    assert method_layer("sat@paper", REGISTRY) == method_layer("sat", REGISTRY)


def test_a_variant_is_another_method() -> None:
    low = {"method": "mmard", "outer": {"name": "mmard", "alpha": 0.25}}
    assert made(low, {"method": "mmard@literal"}).outer == made({"method": "mmard@literal"}).outer


@pytest.mark.parametrize("teacher", ["wrn-34-10", "wrn-34-10@some/file.pt"])
def test_the_papers_command(teacher: str) -> None:
    spec = made({"method": "mmard", "teachers": {"robust": {"name": teacher}}, "device": "cuda"})
    assert (spec.data.name, spec.eps, spec.student.name) == ("cifar10", 8 / 255, "rn-18")
    assert (spec.data.augment.pad, spec.data.augment.flip) == (4, True)
    assert (spec.epochs, spec.schedule.name, spec.batch_size) == (300, "cosine", 128)
    assert (spec.optim.lr, spec.optim.momentum, spec.optim.weight_decay) == (0.1, 0.9, 2e-4)
    assert spec.attack == Node(name="pgd", steps=10, step="eps/4", start="gaussian", start_size=0.001)
    assert spec.teachers == {"robust": Node(name=teacher)}
    assert (spec.inner.name, spec.outer.name, spec.device) == ("kl-teacher-adv", "mmard", "cuda")
    assert made({"method": "mmard", "teacher": teacher, "data": "digits"}).data.name == "digits"


@pytest.mark.parametrize("data", REGISTRY.datasets())
@pytest.mark.parametrize("method", VARIANTS)
def test_a_resolved_spec_as_a_file_is_the_same_spec(tmp_path: Path, method: str, data: str) -> None:
    spec = made({"method": method, "data": data, "with": ["awp"], "average": "ema"})
    path = tmp_path / "spec.toml"
    path.write_text(spec.to_toml(), encoding="utf-8")
    assert made(load_layer(path)) == spec == from_layer(load_layer(path))
    assert made({"method": "mmard", "epochs": 1}, load_layer(path)) == spec
    assert made(own_file(spec)).hash() == spec.hash()


def test_a_spec_with_a_network_template_and_a_null_is_the_same_spec_too() -> None:
    def capped(z: Any, *, cap: float | None = None) -> Any: ...

    registry = Registry([*REGISTRY.plugins, Plugin("x", "x", "1", {"register_outer_objectives": {"capped": capped}})])
    spec = resolve([{"outer": "capped", "student": "wrn-16-2"}], registry)
    assert resolve([own_file(spec)], registry) == spec == from_layer(own_file(spec))
    assert resolve([own_file(spec), {"outer": {"cap": "1/4"}}], registry).outer.params == {"cap": 0.25}


# ---- students ---------------------------------------------------------------------------------------------
def test_a_template_puts_its_numbers_into_the_parameters() -> None:
    spec = made({"student": "wrn-28-4"})
    assert spec.student == Node(name="wrn-28-4", depth=28, width=4, dead_block=False)
    assert made({"student": {"name": "wrn-28-4", "width": 4}}) == spec
    assert "width is part of the name 'wrn-28-4'" in refused({"student": {"name": "wrn-28-4", "width": 5}})
    assert "unknown model 'wrn-x-4'; did you mean" in refused({"student": "wrn-x-4"})


def test_factories_pass_through() -> None:
    student = {"name": "no_such_module:make", "anything": [1, 2]}
    assert made({"student": student}).student == Node.model_validate(student)


# ---- sentences --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ({"method": "mmar"}, "unknown method 'mmar'; did you mean 'mmard'? Known: ard, iad, iad-ii, "),
        ({"method": "sat@oficial"}, "method 'sat' has no variant 'oficial'; did you mean 'official'? Known:"),
        ({"method": "mmard@litteral"}, "method 'mmard' has no variant 'litteral'; did you mean 'literal'?"),
        ({"inner": "kl-techer"}, "unknown inner 'kl-techer'; did you mean 'kl-teacher'?"),
        ({"outer": "rsald"}, "unknown outer 'rsald'; did you mean 'rslad'?"),
        ({"attack": "pdg"}, "unknown attack 'pdg'; did you mean 'pgd'?"),
        ({"student": "digit-net"}, "unknown model 'digit-net'; did you mean 'digits-net'?"),
        ({"with": "apw"}, "unknown modifier 'apw'; did you mean 'awp'?"),
        ({"data": "cifar-10"}, "unknown dataset 'cifar-10'; did you mean 'cifar10'?"),
        ({"select": {"attack": "pgd-trade"}}, "unknown attack 'pgd-trade'; did you mean 'pgd-trades'?"),
        ({"outer": {"name": "rslad", "alpha": 1.5}}, "outer.alpha = 1.5: input should be less than or equal to 1"),
        ({"outer": {"alpha": -1}}, "outer.alpha = -1: input should be greater than or equal to 0"),
        ({"outer": {"space": "log"}}, "outer.space = 'log': input should be 'prob' or 'logit'"),
        ({"outer": {"alhpa": 1}}, "unknown key 'outer.alhpa'; did you mean 'alpha'? Known: alpha, delta, kl_scale, "),
        ({"inner": {"teacher_grad": 3}}, "inner.teacher_grad = 3: input should be 'full' or 'detach'"),
        ({"attack": {"steps": -1}}, "attack.steps = -1: input should be greater than or equal to 0"),
        ({"attack": {"eps": 0.1}}, "unknown key 'attack.eps'; did you mean 'steps'? Known: start, start_size, step, "),
        ({"student": {"width": 0}}, "student.width = 0: input should be greater than 0"),
        ({"with": [{"name": "awp", "gamma": 0}]}, "with.awp.gamma = 0: input should be greater than 0"),
        ({"with": [{"name": "awp", "gama": 1}]}, "unknown key 'with.awp.gama'; did you mean 'gamma'? Known: gamma."),
    ],
)
def test_what_is_unknown_or_out_of_range_is_said_with_its_place(layer: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(layer)


def test_an_unknown_teacher_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown teacher 'wrn-34-1o'; did you mean 'wrn-34-10'"):
        locate_teacher(Node(name="wrn-34-1o"), REGISTRY, "cifar10")


@pytest.mark.parametrize("kind", ["method", "inner", "outer", "attack", "model", "teacher", "modifier", "dataset"])
def test_every_kind_answers_a_misspelt_name_with_the_nearest(kind: str) -> None:
    name = REGISTRY.names(kind)[0]
    with pytest.raises(UserError, match=rf"unknown {kind} '{name}x'; did you mean '{name}'\? Known: "):
        REGISTRY.get(kind, f"{name}x")


JUNK: list[Any] = [3, -0.5, True, None, "", "bogus", [], [3], [[]], {}, {"name": 3}, {"bogus": 1}, {"name": ["a"]}]
KEYS = sorted({*(f.alias or name for name, f in RunSpec.model_fields.items()), "modifiers", "teacher", "bogus"})


@pytest.mark.parametrize("key", KEYS)
def test_junk_is_a_sentence_or_a_spec_but_never_a_traceback(key: str) -> None:
    for junk in JUNK:
        for layers in ([{key: junk}], [own_file(made()), {key: junk}], [{key: junk}, {"outer": "rslad"}]):
            with suppress(UserError):
                assert isinstance(made(*layers), RunSpec)


# ---- advice -----------------------------------------------------------------------------------------------
@given(st.integers(0, 20), st.integers(1, 20))
def test_an_attack_that_cannot_reach_its_ball_is_pointed_out(steps: int, parts: int) -> None:
    found = advice(made({"attack": {"steps": steps, "step": f"eps/{parts}"}}))
    assert bool(found) == (steps < parts)
    assert all("less than eps = 0.2" in sentence for sentence in found)


def test_advice_knows_absolute_steps_and_attacks_without_any() -> None:
    assert advice(made({"eps": "8/255", "attack": {"steps": 4, "step": "2/255"}})) == []
    (sentence,) = advice(made({"eps": "8/255", "attack": {"steps": 3, "step": "2/255"}}))
    assert "steps x step = 0.02353 is less than eps = 0.03137" in sentence
    assert advice(made({"attack": "clean"})) == []
    assert advice(made({"method": "nature", "attack": {"steps": 1}})) == []
