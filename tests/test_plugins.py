"""Plugins: the built-ins come through the hooks, strangers add units of every kind, broken ones harm nobody."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import robustdistill as rd
from games import Tiny
from robustdistill import plugins
from robustdistill.errors import PluginError, UserError
from robustdistill.events import Finished, Stepped
from robustdistill.plugins import DEFAULT_PLUGINS, SWITCH, Plugin, hooks, load_plugins
from robustdistill.registry import KINDS, Registry, params_model
from robustdistill.resolve import resolve

Install = Callable[..., None]

TRICKS = '''
from typing import Annotated
from pydantic import Field
import torch
from torch import nn
from robustdistill import Attack, Method, Modifier, Recipe, hookimpl
from robustdistill.losses import ce

def darkness(z):
    """Ascended by darkening."""
    return -z.x_adv.flatten(1).sum(1)

def shifted(z, *, gain: Annotated[float, Field(ge=0)] = 1000.0):
    return ce(z.s_adv, z.y) + gain * (z.x - z.x_adv).flatten(1).amax(1)

class Counting(nn.Module):
    """ce plus the number of batches seen, the teacher read too."""

    def __init__(self, *, rate: Annotated[float, Field(gt=0)] = 100.0):
        super().__init__()
        self.rate = rate
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z):
        self.seen.add_(self.rate)
        return ce(z.s_adv, z.y) + self.seen + 0 * z.t.sum(1)

def one_step(z, objective, /, *, eps, generator=None, size: float = 1.0):
    x = z.x.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(objective(z.at(x)).sum(), x)
    return torch.clamp(z.x + size * eps * grad.sign(), 0, 1)

class Louder(Modifier):
    def __init__(self, *, by: float = 5000.0):
        super().__init__()
        self.by = by

    def wrap(self, inner, outer):
        return inner, lambda z: outer(z) + self.by

@hookimpl
def register_inner_objectives():
    return {"darkness": darkness}

@hookimpl
def register_outer_objectives():
    return {"shifted": shifted, "counting": Counting}

@hookimpl
def register_attacks():
    return {"one-step": Attack(one_step, lambda z: ce(z.s_adv, z.y), {"size": 0.5})}

@hookimpl
def register_modifiers():
    return {"louder": Louder}

@hookimpl
def register_methods():
    recipe = Recipe(epochs=1, batch_size=16, schedule="constant")
    return {"darken": Method("darkness", "shifted", "darkens", outer_params={"gain": 2000.0}, recipe=recipe)}
'''
QUICK = {"epochs": 1, "limit_batches": 2, "batch_size": 16, "select": {"attack": "one-step", "n": 20}, "seed": 3}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs distributions with an entry point each, as pip would lay them out."""
    monkeypatch.delenv(SWITCH)
    names: list[str] = []

    def make(
        name: str, source: str, distribution: str = "", version: str = "1.5", requires: str = "", module: str = ""
    ) -> None:
        distribution = distribution or f"{name}-dist"
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
        (info / "entry_points.txt").write_text(f"[robustdistill]\n{name} = {module or name}\n")
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        monkeypatch.syspath_prepend(tmp_path)

    yield make
    for name in names:
        sys.modules.pop(name, None)


def outer(name: str, body: str = "def loss(z): return z.s.sum(1)") -> str:
    return f"""
from robustdistill import hookimpl
{body}
@hookimpl
def register_outer_objectives():
    return {{{name!r}: loss}}
"""


def third_party(found: list[Plugin]) -> list[Plugin]:
    return [p for p in found if p.name not in DEFAULT_PLUGINS]


def named(registry: Registry) -> dict[str, set[str]]:
    return {kind: set(registry.names(kind)) for kind in KINDS}


# ---- the built-ins ----------------------------------------------------------------------------------------
def test_there_is_a_kind_for_every_hook() -> None:
    assert sorted(KINDS.values()) == hooks()


def test_the_built_ins_come_through_the_hooks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(named(Registry(load_plugins())).values())
    monkeypatch.setattr(plugins, "DEFAULT_PLUGINS", ())
    assert load_plugins() == []
    assert not any(named(Registry(load_plugins())).values())


@pytest.mark.parametrize("name", DEFAULT_PLUGINS)
def test_without_one_built_in_exactly_its_units_are_gone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Registry(load_plugins())
    (plugin,) = (p for p in full.plugins if p.name == name)
    assert plugin.provides
    monkeypatch.setattr(plugins, "DEFAULT_PLUGINS", tuple(p for p in DEFAULT_PLUGINS if p != name))
    rest = named(Registry(load_plugins()))
    for kind, before in named(full).items():
        assert before - rest[kind] == set(plugin.provides.get(KINDS[kind], {}))
        assert rest[kind] <= before


# ---- a stranger's plugin ----------------------------------------------------------------------------------
def test_a_plugin_adds_units_of_five_kinds_and_trains(install: Install) -> None:
    install("tricks", TRICKS)
    registry = Registry(load_plugins())
    assert registry.entry("outer", "shifted").origin == "tricks-dist 1.5 (tricks)"
    spec = resolve([QUICK, {"method": "darken", "attack": "one-step", "with": "louder"}], registry)
    assert spec.outer.params == {"gain": 2000.0}
    assert spec.attack.params == {"size": 0.5}
    *events, end = rd.train(spec, registry=registry)
    losses = [e.loss for e in events if isinstance(e, Stepped)]
    # 5000 from the modifier, 2000 x 0.5 x eps 0.2 from the outer objective where the attack darkened, and a CE.
    assert len(losses) == 2
    assert all(5200 < loss < 5210 for loss in losses)
    assert isinstance(end, Finished)
    assert end.result["with"] == ["louder"]
    assert {"clean", "one-step"} <= end.result["last"]["test"].keys()  # type: ignore[index]


def test_a_plugin_may_be_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tricks:
        @rd.hookimpl
        def register_outer_objectives(self) -> dict[str, Any]:
            return {"mine": lambda z: z.s.sum(1)}

    class Entry:
        name, value, dist = "object", "nowhere:tricks", None

        def load(self) -> Any:
            return Tricks()

    monkeypatch.delenv(SWITCH)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [Entry()])
    assert Registry(load_plugins()).entry("outer", "mine").origin == "unknown distribution ? (object)"


def test_a_stateful_objective_is_built_fresh_for_each_run(install: Install) -> None:
    install("tricks", TRICKS)
    registry = Registry(load_plugins())
    one, other = (registry.build("outer", "counting", {"rate": 1.0}) for _ in range(2))
    assert isinstance(one, nn.Module)
    assert one is not other
    spec = resolve([QUICK, {"method": "sat", "attack": "one-step", "outer": "counting"}], registry)
    assert spec.outer.params == {"rate": 100.0}
    runs = [[e.loss for e in rd.train(spec, teacher=Tiny(), registry=registry) if isinstance(e, Stepped)] for _ in "ab"]
    assert runs[0] == runs[1]
    assert 100 < runs[0][0] < 110
    assert 200 < runs[0][1] < 210
    with pytest.raises(UserError, match=r"outer\.rate = 0: input should be greater than 0"):
        resolve([{"outer": {"name": "counting", "rate": 0}}], registry)


def test_a_class_with_a_method_called_run_is_still_itself() -> None:
    class Runner(nn.Module):
        def __init__(self, *, rate: float = 2.0) -> None:
            super().__init__()
            self.rate = rate

        def run(self) -> None: ...

        def build(self) -> None: ...

    plugin = Plugin("x", "x", "1", {"register_outer_objectives": {"runner": Runner}})
    registry = Registry([plugin])
    assert registry.params("outer", "runner", {"rate": 3}, "outer") == {"rate": 3.0}
    assert isinstance(registry.build("outer", "runner", {"rate": 3.0}), Runner)


# ---- broken ones ------------------------------------------------------------------------------------------
BROKEN = {  # what it does, its module, the line of its traceback that says so, the way to mend it
    "raises at import": (
        "import no_such_module_anywhere",
        "ModuleNotFoundError: No module named 'no_such_module_any",
        "install what it imports: pip install no_such_module_anywhere, or pip uninstall broken-tricks",
    ),
    "was made for another one": (
        "from robustdistill.losses import cross_entropy_of_old",
        "ImportError: cannot import name 'cross_entropy_of_old' from 'robustdistill.losses'",
        "it was made for another robustdistill: pip install -U broken-tricks",
    ),
    "exits at import": ("raise SystemExit('go away')", "SystemExit: go away", "broken.py, line 1, or pip uninstall"),
    "is no python": ("def def", "SyntaxError: invalid syntax", "broken.py, line 1"),
    "misspells a hook": (
        outer("a").replace("objectives", "objectve"),
        "there is no hook register_outer_objectve",
        "rename it to register_outer_objectives",
    ),
    "asks for an argument": (
        outer("a").replace("objectives()", "objectives(what)"),
        "register_outer_objectives asks for what, and hooks are given nothing",
        "write def register_outer_objectives():",
    ),
    "lacks the mark": (
        outer("a").replace("@hookimpl", ""),
        "register_outer_objectives is not marked as a hook",
        "write @robustdistill.hookimpl above register_outer_objectives",
    ),
    "returns a list": (
        outer("a").replace("{'a': loss}", "[loss]"),
        "register_outer_objectives returned list; it must return a mapping from names",
        "return {NAME: UNIT}, a Mapping[str, Objective]",
    ),
    "returns nothing": (
        outer("a").replace("return", "lambda:"),
        "register_outer_objectives returned None; it must",
        "return {NAME: UNIT}, a Mapping[str, Objective]",
    ),
    "gives no objective": (
        outer("a", "loss = 3"),
        "gives 'a' as an object of type int; it must be an objective, a callable (z, *, ...)",
        "make 'a' an objective",
    ),
    "gives no method": (
        outer("a").replace("outer_objectives", "methods"),
        "gives 'a' as an object of type function; it must be a robustdistill.Method",
        "make 'a' a robustdistill.Method",
    ),
    "gives an instance": (
        outer("a", "from robustdistill import Modifier; loss = Modifier()").replace("outer_objectives", "modifiers"),
        "gives 'a' as an object of type Modifier; it must be a subclass of robustdistill.Modifier",
        "make 'a' a subclass of robustdistill.Modifier",
    ),
    "gives no name": (
        outer("a").replace("'a':", "3:"),
        "gives a unit the name 3",
        "lower-case words joined by hyphens",
    ),
    "raises in a hook": (
        outer("a").replace("return {", "raise OSError('no weights') or {"),
        "OSError: no weights",
        "broken.py, line 6, or pip uninstall broken-tricks",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_is_reported_and_all_else_works(how: str, install: Install) -> None:
    source, reason, mend = BROKEN[how]
    install("broken", source, "broken-tricks", "0.3")
    install("zebra", outer("fine"))
    found = load_plugins()
    broken, fine = third_party(found)
    assert broken.origin == "broken-tricks 0.3 (broken)"
    assert broken.error.startswith("Traceback (most recent call last):")
    assert "/broken.py" in broken.error
    assert "robustdistill/plugins.py" not in broken.error
    assert reason in broken.error
    assert mend in broken.mend
    assert not broken.provides
    assert (fine.error, set(fine.provides["register_outer_objectives"])) == ("", {"fine"})
    registry = Registry(found)
    assert resolve([{"outer": "fine"}], registry).outer.name == "fine"
    assert resolve([{"method": "rslad"}], registry).outer.name == "rslad"
    with pytest.raises(UserError, match=r"unknown outer 'a'.*failed to load: broken-tricks 0\.3 \(broken\)"):
        registry.get("outer", "a")


def test_a_plugin_whose_module_is_gone_is_to_be_installed_again(install: Install) -> None:
    install("broken", outer("a"), "broken-tricks", "0.3", module="no_such_module_at_all")
    (broken,) = third_party(load_plugins())
    assert broken.reason == "ModuleNotFoundError: No module named 'no_such_module_at_all'"
    assert broken.mend.startswith("its own module is gone: pip install --force-reinstall broken-tricks")


@pytest.mark.parametrize(
    ("requires", "told", "mend"),
    [
        (
            "robustdistill>=9",
            "broken-tricks 0.3 needs robustdistill >=9, and this is",
            "pip install 'robustdistill>=9'",
        ),
        ("RobustDistill <0.0.1", "needs robustdistill <0.0.1, and", "or another broken-tricks: pip install -U broken-"),
        (
            "robustdistill~=99.1; python_version > '3'",
            "needs robustdistill ~=99.1",
            "pip install 'robustdistill~=99.1'",
        ),
    ],
)
def test_a_plugin_for_another_version_is_told_and_not_imported(
    requires: str, told: str, mend: str, install: Install
) -> None:
    install("broken", "raise AssertionError('imported')", "broken-tricks", "0.3", requires=requires)
    install("zebra", outer("fine"))
    broken, fine = third_party(load_plugins())
    assert told in broken.reason
    assert mend in broken.mend
    assert broken.reason in broken.error
    assert "broken" not in sys.modules
    assert not fine.error


@pytest.mark.parametrize(
    "requires",
    ["robustdistill", "robustdistill>=0.0.1", "robustdistill>=9; extra == 'test'", "numpy>=900", "not a requirement"],
)
def test_a_plugin_that_asks_for_nothing_else_of_ours_is_loaded(requires: str, install: Install) -> None:
    install("tricks", outer("fine"), requires=requires)
    (fine,) = third_party(load_plugins())
    assert (fine.error, list(fine.provides)) == ("", ["register_outer_objectives"])


def test_a_name_that_seems_to_be_a_broken_plugins_is_its_error(install: Install) -> None:
    install("broken", "raise OSError('no weights')", "robustdistill-tricks", "0.3")
    registry = Registry(load_plugins())
    for name in ("broken", "broken-x", "tricks", "tricks-x"):
        with pytest.raises(
            PluginError, match=r"robustdistill-tricks 0.3 .* does not work: OSError: no weights. To mend"
        ):
            registry.get("method", name)
    with pytest.raises(UserError, match=r"unknown method 'brokenx'.*failed to load: robustdistill-tricks"):
        registry.get("method", "brokenx")


def test_a_name_twice_is_an_error_with_both_origins_when_it_is_asked_for(install: Install) -> None:
    install("first", outer("mine"))
    install("second", outer("mine"), "second-dist", "2.0")
    install("zebra", outer("fine"))
    registry = Registry(load_plugins())
    sentence = "outer 'mine' is registered twice, by first-dist 1.5 (first) and by second-dist 2.0 (second)"
    for ask in (registry.get, registry.entry, lambda kind, name: resolve([{kind: name}], registry)):
        with pytest.raises(PluginError) as caught:
            ask("outer", "mine")
        assert str(caught.value).startswith(sentence)
        assert str(caught.value).endswith(f"or leave the last one out: {SWITCH}=first,zebra")
        assert caught.value.exit_code == 7
    assert resolve([{"outer": "fine"}], registry).outer.name == "fine"
    assert "mine" not in list(registry.units("outer"))


def test_a_built_in_name_that_is_taken_stops_what_asks_for_it(install: Install) -> None:
    install("thief", outer("mmard"))
    registry = Registry(load_plugins())
    origin = rf"robustdistill {rd.__version__} \(robustdistill\.builtin\.objectives\)"
    with pytest.raises(PluginError, match=rf"'mmard' is registered twice, by {origin} and by thief-dist 1\.5 \(thief"):
        resolve([{"method": "mmard"}], registry)
    assert resolve([{"method": "rslad"}], registry).outer.name == "rslad"


def test_a_name_that_a_template_covers_is_taken_too(install: Install) -> None:
    body = "from robustdistill import Model\nloss = Model(lambda *, num_classes, in_channels: None, None, 'mine')"
    install("thief", outer("wrn-34-10", body).replace("outer_objectives", "models"))
    registry = Registry(load_plugins())
    with pytest.raises(PluginError, match=r"model 'wrn-34-10' is registered twice, by robustdistill .* and by thief"):
        registry.get("model", "wrn-34-10")
    assert registry.get("model", "wrn-28-10")


def test_a_name_of_one_kind_is_free_in_another(install: Install) -> None:
    install("polite", outer("awp"))
    assert "awp" in Registry(load_plugins()).names("outer")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def loss(z, *, gain=1.0): return z.s", r"odd\.loss: annotate the parameter 'gain'"),
        ("def loss(z, *, name: str = ''): return z.s", r"odd\.loss: 'name' is the unit's own name in a spec; rename"),
        ("def loss(z, *, gain: 'Hidden' = 1): return z.s", r"odd\.loss: its annotations cannot be read .*'Hidden'"),
        ("import functools; loss = functools.partial(max, 1)", r"its annotations cannot be read"),
        (
            "from torch import nn\nclass loss(nn.Module):\n    def __init__(self, *, gain=1): super().__init__()",
            r"odd\.loss: annotate the parameter 'gain'",
        ),
    ],
)
def test_a_signature_that_tells_too_little_is_the_plugins_error(install: Install, body: str, sentence: str) -> None:
    install("odd", outer("odd", body))
    registry = Registry(load_plugins())
    assert resolve([{}], registry).outer.name == "mmard"
    with pytest.raises(PluginError, match=sentence):
        resolve([{"outer": "odd"}], registry)


def test_what_the_engine_gives_is_no_parameter() -> None:
    def attack(z: Any, objective: Any, /, *, eps: float, generator: Any = None, size: int = 3) -> torch.Tensor: ...

    assert set(params_model(attack).model_fields) == {"size"}


# ---- the switch -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("switch", "loaded"),
    [
        (None, ["apple", "broken", "pear"]),
        ("", []),
        ("pear", ["pear"]),
        (" pear , apple,", ["apple", "pear"]),
        ("nobody", []),
    ],
)
def test_the_environment_chooses_the_plugins(
    switch: str | None, loaded: list[str], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pear", "apple"):
        install(name, outer(name))
    install("broken", "import no_such_module_anywhere")
    if switch is not None:
        monkeypatch.setenv(SWITCH, switch)
    found = load_plugins()
    assert [p.name for p in third_party(found)] == loaded
    assert [p.name for p in found[: len(DEFAULT_PLUGINS)]] == list(DEFAULT_PLUGINS)
