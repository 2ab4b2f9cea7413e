"""`robustdistill plugins list` and `check`: what is installed, whether it works, whether it keeps its contract."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from installing import install
from robustdistill import plugins
from robustdistill.registry import default_registry
from test_cli import TRIAL, rd

SOUND = '''
from robustdistill import hookimpl
from robustdistill.losses import ce

def loss(z):
    """CE(S(x'), y)."""
    return ce(z.s_adv, z.y)

@hookimpl
def register_outer_objectives():
    return {"NAME": loss}
'''
OUTER = 18  # checks of an objective, its name's among them


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is installed is looked for anew."""
    default_registry.cache_clear()
    yield
    default_registry.cache_clear()


def sound(name: str) -> str:
    return SOUND.replace("NAME", name)


def last(*args: str) -> dict[str, Any]:
    return rd(*args).records[-1]


# ---- list ---------------------------------------------------------------------------------------------------
def test_list_tells_of_each_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, sound("mine"))
    *built_in, mine = rd("plugins", "list", "--json").records
    assert {r["state"] for r in built_in} == {"works"}
    assert mine.pop("seconds") < 5  # type: ignore[operator]
    assert mine == {
        "name": "ill",
        "distribution": "sorry",
        "version": "1.2",
        "hooks": ["register_outer_objectives"],
        "provides": {"outer_objectives": ["mine"]},
        "state": "works",
        "reason": "",
        "mend": "",
        "traceback": "",
    }
    out = rd("plugins", "list").out
    assert re.search(r"^ill +sorry 1\.2 +outer objectives: mine +works$", out, re.M)
    assert len(out.splitlines()) == 2 + len(built_in) + 1


def test_list_shows_a_broken_one_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "raise ValueError('this plugin is\\nnot well')\n")
    done = rd("plugins", "list", "--json")
    *fine, broken = done.records
    assert done.code == 0
    assert {r["state"] for r in fine} == {"works"}
    assert "mmard" in {name for r in fine for name in r["provides"].get("methods", ())}  # type: ignore[attr-defined]
    assert (broken["name"], broken["distribution"], broken["version"]) == ("ill", "sorry", "1.2")
    assert (broken["state"], broken["provides"]) == ("broken", {})
    assert broken["reason"] == "ValueError: this plugin is not well"
    out = rd("plugins", "list").out
    assert re.search(r"^ill +sorry 1\.2 +- +broken$", out, re.M)
    place = tmp_path / "sorry.py"
    assert out.endswith(
        "\nill of sorry 1.2 does not work: ValueError: this plugin is not well\nTraceback (most recent call last):\n"
        f"  File \"{place}\", line 1, in <module>\n    raise ValueError('this plugin is\\nnot well')\n"
        f"ValueError: this plugin is\nnot well\nTo mend it: mend {place}, line 1, or pip uninstall sorry\n"
    )


def test_list_shows_one_that_provides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "")
    assert last("plugins", "list", "--json")["state"] == "empty"
    assert rd("plugins", "list").out.endswith(
        "\nill of sorry 1.2 is empty: it provides nothing\nTo mend it: mark its hooks with @robustdistill.hookimpl\n"
    )


def test_list_shows_a_clash_once_and_who_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, sound("rslad"))
    clashing = {r["name"] for r in rd("plugins", "list", "--json").records if r["state"] == "clashes"}
    assert clashing == {"robustdistill.builtin.objectives", "ill"}
    out = rd("plugins", "list").out
    assert out.count("outer 'rslad' is registered twice, by robustdistill ") == 1
    for command, code in (("explain rslad", 7), ("train --method rslad --print-spec", 7), ("explain mmard", 0)):
        done = rd(*command.split())
        assert done.code == code
        assert ("by sorry 1.2 (ill)" in done.err) == (code == 7)


def test_list_shows_what_the_environment_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "raise AssertionError('imported')")
    monkeypatch.setenv("ROBUSTDISTILL_PLUGINS", "")
    off = last("plugins", "list", "--json")
    assert (off["name"], off["state"], off["traceback"]) == ("ill", "left out", "")
    assert off["mend"] == "unset ROBUSTDISTILL_PLUGINS, or name it there"
    assert "\nROBUSTDISTILL_PLUGINS='' leaves out " in rd("plugins", "list").out


# ---- check --------------------------------------------------------------------------------------------------
def test_check_prints_what_each_check_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, sound("mine"))
    for asked in ((), ("ill",), ("sorry",), ("mine",)):
        done = rd("plugins", "check", *asked)
        assert (done.code, done.err) == (0, "")
        assert done.out.endswith(f"\n{OUTER} checks: {OUTER - 2} ok, 0 fail, 2 do not apply\n")
    assert re.search(r"^outer +mine +gradient +ok$", done.out, re.M)
    assert re.search(r"^outer +mine +keeps +- +a function has no state$", done.out, re.M)
    assert re.search(r"^outer +mine +gradient +- +skipped$", rd("plugins", "check", "--skip", "gradient").out, re.M)


def test_check_ends_with_7_where_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, sound("mine").replace("ce(z.s_adv, z.y)", "ce(z.s_adv, z.y).mean()"))
    done = rd("plugins", "check", "--json")
    assert done.code == 7
    assert done.err.startswith("error: 1 of 5 checks fail: outer mine")
    failing = [r for r in done.records if r["state"] == "fails"]
    assert [(r["plugin"], r["kind"], r["unit"], r["check"]) for r in failing] == [("ill", "outer", "mine", "shape")]
    assert str(failing[0]["found"]).startswith("mine returns shape [] for 6 images; it must be [6]")
    assert done.records[-1]["check"] == "the rest"
    assert rd("plugins", "check", "--skip", "shape,bf16").code == 7


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'. To mend it: install what it"),
        ("", "it provides nothing; is @hookimpl there?"),
    ],
)
def test_check_of_one_that_does_not_load(
    source: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, source)
    for asked in ((), ("ill",)):
        done = rd("plugins", "check", *asked)
        assert done.code == 7
        assert re.search(rf"^plugin +ill +loads +fails +{re.escape(found)}", done.out, re.M)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "no plugin is installed but the built-in ones; name one to check it: objectives, methods"),
        (("teechers",), "no plugin is or provides 'teechers'; did you mean 'teachers'?"),
        (("modifiers", "--skip", "leeves"), "there is no check leeves; there are: ascends, "),
    ],
)
def test_check_refuses_what_there_is_not(args: tuple[str, ...], sentence: str) -> None:
    done = rd("plugins", "check", *args)
    assert done.code == 2
    assert sentence in done.err
    assert not done.out


def test_a_built_in_plugin_is_checked_by_its_short_name() -> None:
    done = rd("plugins", "check", "modifiers")
    assert done.code == 0
    assert done.out.endswith("checks: 10 ok, 0 fail, 0 do not apply\n")


# ---- the built-ins ------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("gone", ["autoattack", "modifiers", "teachers"])
def test_without_a_built_in_what_does_not_need_it_works(gone: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tuple(p for p in plugins.DEFAULT_PLUGINS if p != f"robustdistill.builtin.{gone}")
    monkeypatch.setattr(plugins, "DEFAULT_PLUGINS", left)
    for command in (
        "list",
        "plugins list",
        f"train --method sat --out run {' '.join(TRIAL)}",
        "eval run --attacks fgsm",
    ):
        done = rd(*command.split())
        assert done.code == 0, done.err
    unit = {"autoattack": "aa", "modifiers": "awp", "teachers": "digits-robust"}[gone]
    done = rd("explain", unit)
    assert (done.code, f"nothing is named '{unit}'" in done.err) == (2, True)


@pytest.mark.parametrize("gone", plugins.DEFAULT_PLUGINS)
def test_without_a_built_in_the_rest_is_listed(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rd("plugins", "list", "--json").records
    monkeypatch.setattr(plugins, "DEFAULT_PLUGINS", tuple(p for p in plugins.DEFAULT_PLUGINS if p != gone))
    default_registry.cache_clear()
    rest = rd("plugins", "list", "--json").records
    assert [r["name"] for r in rest] == [r["name"] for r in whole if r["name"] != gone]
    assert {r["state"] for r in rest} == {"works"}
    assert rd("list").code == 0
