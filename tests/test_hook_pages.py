"""docs/hooks: a page for every hook with its exact signature, a plugin that works, and every check that holds it."""

import importlib.util
import inspect
from pathlib import Path

import pytest

from robustdistill import hookspecs, testing
from robustdistill.cli.app import command
from robustdistill.cli.plugins import BROKEN, CLASHES, EMPTY, OFF, WORKS
from robustdistill.plugins import Plugin, _provides, load_plugins
from robustdistill.registry import KINDS, Registry
from robustdistill.testing.checks import FAILS, name_of, promise
from robustdistill.testing.plugin import CHECKS, check_plugin
from test_docs import PAGES, blocks, rows, trained

HOOKS = Path(__file__).parents[1] / "docs" / "hooks"
KIND = {hook: kind for kind, hook in KINDS.items()}
LAYERS = {  # how each example is put to use in a run
    "register_methods": {"method": "taught-attack"},
    "register_inner_objectives": {"method": "sat", "inner": "margin"},
    "register_outer_objectives": {"method": "sat", "outer": {"name": "halves", "weight": 0.25}},
    "register_attacks": {"method": "sat", "attack": "one-step"},
    "register_models": {"method": "sat", "student": {"name": "one-conv", "width": 4}},
    "register_modifiers": {"method": "sat", "with": "also-clean"},
    "register_datasets": {"method": "sat", "data": "stripes"},
}


def example(hook: str) -> Registry:
    """The built-ins and the example of a hook, as its entry point would load it."""
    spec = importlib.util.spec_from_file_location(f"example_of_{hook}", HOOKS / f"{hook}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Registry([*load_plugins(), Plugin(hook, "example", "1", _provides(hook, module))])


def test_there_is_a_page_for_every_hook_and_no_other() -> None:
    assert {p.stem for p in HOOKS.glob("*.md")} == {p.stem for p in HOOKS.glob("*.py")} == set(KIND)


@pytest.mark.parametrize("hook", KIND)
def test_a_page_has_the_signature_the_example_and_the_checks(hook: str) -> None:
    function, name = getattr(hookspecs, hook), f"hooks/{hook}.md"
    signature = str(inspect.signature(function)).replace("'", "")
    assert PAGES[name].startswith(f"# `{hook}{signature}`\n\n{inspect.getdoc(function)} ")
    assert blocks(name, "python") == [(HOOKS / f"{hook}.py").read_text()]
    for check in CHECKS[KIND[hook]]:
        assert f"\n| `{name_of(check)}` | {promise(check)} |\n" in PAGES[name]
    assert f"](hooks/{hook}.md)" in PAGES["hooks.md"]


@pytest.mark.parametrize("hook", KIND)
def test_an_example_keeps_its_contract(hook: str) -> None:
    registry = example(hook)
    plugin = registry.plugins[-1]
    assert hook in plugin.provides
    assert not [(r.name, r.finding) for r in check_plugin(plugin, registry) if r.finding.state == FAILS]


@pytest.mark.parametrize("hook", LAYERS)
def test_an_example_trains(hook: str) -> None:
    layer = {"select": {"attack": "fgsm", "n": 8}, **LAYERS[hook]}
    registry = example(hook)
    assert trained(registry, **layer)["last"]["loss"] > 0
    assert {"register_teachers", *LAYERS} == set(KIND)  # the teacher's file is the user's


@pytest.mark.parametrize("hook", KIND)
def test_the_command_of_a_page_exists(hook: str) -> None:
    (used,) = (line for line in PAGES[f"hooks/{hook}.md"].splitlines() if "In use: `" in line)
    program, name, flag, unit = used.partition("In use: `")[2].rstrip("`.").split()
    assert (program, unit) == ("robustdistill", "NAME")
    assert flag in {option for p in command().commands[name].params for option in p.opts}


# ---- robustdistill.testing ----------------------------------------------------------------------------------
def test_the_page_on_testing_tells_of_every_function_and_check() -> None:
    told = rows("testing.md")
    assert set(testing.__all__) <= told.keys()
    assert {name_of(check) for checks in CHECKS.values() for check in checks} <= told.keys()


def test_the_code_of_the_page_on_testing_runs() -> None:
    names: dict[str, object] = {}
    (text,) = blocks("testing.md", "python")
    exec(compile(text, "testing.md", "exec"), names)
    tests = [function for name, function in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()  # type: ignore[operator]


def test_every_state_of_a_plugin_is_told_of() -> None:
    assert {BROKEN, CLASHES, EMPTY, OFF, WORKS} <= rows("isolation.md").keys()
