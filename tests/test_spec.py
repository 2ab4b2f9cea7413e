"""The spec: TOML out and in again, fractions, sentences for what is wrong, `--set`, and the hash of a run."""

import tomllib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from robustdistill.errors import DamagedFile, UserError
from robustdistill.quantities import parse_number
from robustdistill.spec import Node, RunSpec, from_layer, load_layer, set_layer

LEAST: dict[str, Any] = {
    "method": "mmard",
    "eps": 0.2,
    "data": {"name": "digits", "augment": {"pad": 1, "flip": False}},
    "student": {"name": "digits-net", "width": 16},
    "teachers": {"robust": {"name": "digits-robust"}},
    "inner": {"name": "kl-teacher-adv"},
    "attack": {"name": "pgd", "steps": 10, "step": "eps/4"},
    "outer": {"name": "mmard", "alpha": 1.0},
    "epochs": 3,
    "batch_size": 32,
}

# ---- TOML out and in again --------------------------------------------------------------------------------
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
keys = words.filter(lambda key: key != "name")
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), finite, words)
nodes = st.builds(lambda name, params: {**params, "name": name}, words, st.dictionaries(keys, plain, max_size=3))
counts = st.integers(1, 10**6)
fractions = st.floats(0, 1, exclude_min=True, exclude_max=True)


def table(required: Mapping[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(dict(required or {}), optional=optional)


specs = table(
    {
        "method": words,
        "eps": fractions,
        "data": table({"name": words, "augment": table({"pad": st.integers(0, 9), "flip": st.booleans()})}, dir=words),
        "student": nodes,
        "inner": nodes,
        "attack": nodes,
        "outer": nodes,
        "epochs": counts,
        "batch_size": counts,
    },
    seed=st.integers(-(2**62), 2**62),
    teachers=st.dictionaries(words, nodes, max_size=2),
    attack_bn=st.sampled_from(["eval", "train", "train_frozen_stats"]),
    **{"with": st.lists(nodes, max_size=2)},
    limit_batches=st.none() | counts,
    optim=table(lr=st.floats(1e-9, 1e9), momentum=st.floats(0.01, 0.99), nesterov=st.booleans()),
    schedule=table(
        name=st.sampled_from(["cosine", "multistep", "constant"]),
        milestones=st.lists(st.integers(0, 300), max_size=3, unique=True).map(sorted),
        gamma=fractions,
    ),
    average=table(name=st.sampled_from(["none", "ema", "swa"]), decay=fractions, start=fractions),
    select=table(split=st.sampled_from(["holdout", "test"]), attack=words, every=counts, n=st.none() | counts),
    device=words,
    mode=st.sampled_from(["auto", "eager"]),
    precision=st.sampled_from(["fp32", "fp64"]),
).map(from_layer)


@given(specs)
@example(from_layer(LEAST))
def test_toml_out_and_in_again_is_the_same_spec(tmp_path_factory: pytest.TempPathFactory, spec: RunSpec) -> None:
    path = tmp_path_factory.getbasetemp() / "spec.toml"
    path.write_text(spec.to_toml(), encoding="utf-8")
    again = from_layer(load_layer(path))
    assert again == spec
    assert again.to_toml() == spec.to_toml()
    assert again.hash() == spec.hash()


def test_there_are_no_nulls() -> None:
    layer = {**LEAST, "outer": {"name": "mmard", "cap": None}, "limit_batches": None, "select": {"n": None}}
    spec = from_layer(layer)
    written = tomllib.loads(spec.to_toml())
    assert written["outer"] == {"name": "mmard"}
    assert "limit_batches" not in written
    assert "n" not in written["select"]
    assert "dir" not in written["data"]
    assert from_layer(written) == spec
    assert from_layer(written).hash() == spec.hash()


def test_modifiers_are_written_under_the_key_that_users_write() -> None:
    written = tomllib.loads(from_layer({**LEAST, "with": [{"name": "awp", "gamma": 0.01}]}).to_toml())
    assert written["with"] == [{"name": "awp", "gamma": 0.01}]
    assert "modifiers" not in written


# ---- numbers ----------------------------------------------------------------------------------------------
@given(st.integers(-(10**9), 10**9), st.integers(1, 10**9))
def test_fractions_are_numbers(top: int, bottom: int) -> None:
    assert parse_number(f"{top}/{bottom}") == pytest.approx(float(Fraction(top, bottom)))


@pytest.mark.parametrize("value", ["8", "a/b", "1/0", "1/2/3", "data/cifar10", "", "/", 3, None, [1]])
def test_what_is_no_fraction_passes_unchanged(value: Any) -> None:
    assert parse_number(value) is value


@pytest.mark.parametrize("eps", ["8/255", " 8 / 255 ", 8 / 255, str(8 / 255)])
def test_eps_in_any_notation(eps: Any) -> None:
    assert from_layer({**LEAST, "eps": eps}).eps == 8 / 255


@pytest.mark.parametrize("eps", [8, 8.0, "8", "16/2"])
def test_eps_8_is_asked_back_as_8_of_255(eps: Any) -> None:
    with pytest.raises(UserError, match=r"^eps 8 is no radius for pixels in \[0, 1\]; did you mean 8/255\?$"):
        from_layer({**LEAST, "eps": eps})


# ---- sentences for what is wrong --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epoch": 3}, "unknown key 'epoch'; did you mean 'epochs'? Known: attack, "),
        ({"wth": []}, "unknown key 'wth'; did you mean 'with'?"),
        ({"zzzz": 1}, "unknown key 'zzzz'. Known: attack, "),
        ({"optim": {"learning_rate": 1, "weight_deca": 1}}, "'optim.weight_deca'; did you mean 'weight_decay'?"),
        ({"select": {"evry": 1}}, "unknown key 'select.evry'; did you mean 'every'? Known: attack, every, n, split."),
        ({"data": {"name": "d", "augment": {"padd": 1, "flip": True}}}, "'data.augment.padd'; did you mean 'pad'?"),
        ({"epochs": "many"}, "epochs = 'many': input should be a valid integer"),
        ({"epochs": 2.5}, "epochs = 2.5: input should be a valid integer"),
        ({"epochs": 0}, "epochs = 0: input should be greater than or equal to 1"),
        ({"eps": "wide"}, "eps = 'wide': input should be a valid number"),
        ({"eps": None}, "eps = None: input should be a valid number"),
        ({"eps": 0}, "eps = 0: input should be greater than 0"),
        ({"eps": float("nan")}, "eps = nan: input should be"),
        ({"optim": {"lr": float("inf")}}, "optim.lr = inf: input should be a finite number"),
        ({"optim": {"lr": "1/0"}}, "optim.lr = '1/0': input should be a valid number"),
        ({"optim": 3}, "optim = 3: input should be a valid dictionary"),
        ({"optim": {"momentum": 1}}, "optim.momentum = 1: input should be less than 1"),
        ({"schedule": {"name": "cosin"}}, "schedule.name = 'cosin': input should be 'cosine', 'multistep' or"),
        ({"schedule": {"milestones": ["x"]}}, "schedule.milestones.0 = 'x': input should be a valid integer"),
        ({"schedule": {"milestones": 50}}, "schedule.milestones = 50: this is a list; write [50]"),
        ({"schedule": {"milestones": "a"}}, "schedule.milestones = 'a': this is a list; write [\"a\"]"),
        ({"norm": "l2"}, "norm = 'l2': input should be 'linf'"),
        ({"student": {"width": 3}}, "student.name is missing"),
        ({"with": [{"gamma": 3}]}, "with.0.name is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        from_layer({**LEAST, **changes})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        from_layer({"method": "sat", "epochs": 0})
    assert {"eps is missing", "data is missing", "outer is missing"} <= set(str(caught.value).split("; "))
    assert "epochs = 0" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no spec file .*absent\.toml"):
        load_layer(tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"epochs = ", b"epochs = 1\nepochs = 2", b'method = "\xff"', b"{}"])
def test_a_file_that_is_no_toml_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"spec\.toml is not readable TOML: "):
        load_layer(path)


# ---- --set ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("2e-4", 2e-4),
        ("true", True),
        ("false", False),
        ("cosine", "cosine"),
        ('"3"', "3"),
        ("rn-18", "rn-18"),
        ("8/255", "8/255"),
        ("eps/4", "eps/4"),
        ("a = b", "a = b"),
        ("[30, 40]", [30, 40]),
        ('["awp"]', ["awp"]),
        ("{ name = 'awp' }", {"name": "awp"}),
        ("", ""),
    ],
)
def test_set_reads_values_as_toml_or_else_as_text(text: str, value: Any) -> None:
    layer = set_layer([f"key={text}"])
    assert layer == {"key": value}
    assert type(layer["key"]) is type(value)


def test_set_nests_gathers_and_lets_the_last_win() -> None:
    given = ["optim.lr=1", " optim . nesterov = true ", "data.augment.pad=2", "optim.lr=0.5"]
    assert set_layer(given) == {"optim": {"lr": 0.5, "nesterov": True}, "data": {"augment": {"pad": 2}}}


def test_set_of_a_fraction_is_a_number_in_the_spec() -> None:
    assert from_layer({**LEAST, **set_layer(["eps=4/255"])}).eps == 4 / 255


def test_set_names_a_unit_and_then_its_parameter() -> None:
    assert set_layer(["outer=rslad", "outer.alpha=0.5"]) == {"outer": {"name": "rslad", "alpha": 0.5}}


@pytest.mark.parametrize("junk", ["", "lr", "=3", " = 3", ".=3", "a.=3", ".a=3", "a..b=3"])
def test_set_of_junk_shows_how_it_is_written(junk: str) -> None:
    with pytest.raises(UserError, match=r"is no assignment; write --set outer.alpha=0.5"):
        set_layer([junk])


def test_set_into_a_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"--set 'epochs.first=1': epochs was set to 3 before"):
        set_layer(["epochs=3", "epochs.first=1"])


# ---- frozen, hash -----------------------------------------------------------------------------------------
def test_every_part_of_a_spec_is_frozen() -> None:
    spec = from_layer(LEAST)
    for part in (spec, spec.data, spec.data.augment, spec.student, spec.optim, spec.select, spec.teachers["robust"]):
        key = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, key, "other")
    with pytest.raises(ValidationError, match="frozen"):
        spec.student.width = 3  # type: ignore[attr-defined]


def test_parameters_are_a_copy() -> None:
    node = Node.model_validate({"name": "mmard", "alpha": 1.0})
    node.params["alpha"] = 2.0
    assert node.params == {"alpha": 1.0}


def test_where_a_run_runs_does_not_change_its_hash() -> None:
    spec = from_layer(LEAST)
    assert from_layer({**LEAST, "device": "cuda:1", "mode": "eager"}).hash() == spec.hash()
    assert from_layer(dict(reversed(LEAST.items()))).hash() == spec.hash()


def test_the_span_of_a_schedule_is_new_and_changes_no_hash_by_being_there() -> None:
    assert from_layer(LEAST).hash() == "873d25da831d3b92"  # as it was before there was schedule.epochs
    long = from_layer({**LEAST, "schedule": {"epochs": 9}})
    assert long.hash() != from_layer(LEAST).hash()
    assert (long.span, from_layer(LEAST).span) == (9, LEAST["epochs"])
    assert from_layer(tomllib.loads(long.to_toml())) == long


def test_a_schedule_does_not_end_before_its_run() -> None:
    with pytest.raises(UserError, match=r"schedule.epochs = 2 ends before the run of 3 epochs"):
        from_layer({**LEAST, "schedule": {"epochs": 2}})


CHANGES: dict[str, Any] = {
    "method": "sat",
    "seed": 1,
    "eps": 0.1,
    "data": {"name": "digits", "augment": {"pad": 2, "flip": False}},
    "student": {"name": "digits-net", "width": 17},
    "teachers": {},
    "inner": {"name": "ce"},
    "attack": {"name": "pgd", "steps": 11, "step": "eps/4"},
    "attack_bn": "train",
    "outer": {"name": "mmard", "alpha": 1.5},
    "with": [{"name": "awp"}],
    "epochs": 4,
    "batch_size": 33,
    "limit_batches": 2,
    "optim": {"lr": 0.2},
    "schedule": {"gamma": 0.2},
    "average": {"name": "ema"},
    "sync_bn": True,
    "select": {"split": "test"},
    "precision": "fp64",
    "on_nonfinite": "skip",
}


def test_every_other_part_changes_the_hash() -> None:
    untouched = {f.alias or name for name, f in RunSpec.model_fields.items()} - set(CHANGES)
    assert untouched == {"norm", "device", "mode", "save_minutes", "deterministic"}  # norm has one value
    hashes = [from_layer({**LEAST, key: value}).hash() for key, value in CHANGES.items()]
    assert len({from_layer(LEAST).hash(), *hashes}) == len(CHANGES) + 1
