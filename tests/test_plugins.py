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

    def make(name: str, source: str, distribution: str = "", version: str = "1.5") -> None:
        distribution = distribution or f"{name}-dist"
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[robustdistill]\n{name} = {name}\n")
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
BROKEN = {
    "raises at import": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_any"),
    "exits at import": ("raise SystemExit('go away')", "SystemExit: go away"),
    "is no python": ("def def", "SyntaxError"),
    "misspells a hook": (outer("a").replace("objectives", "objectve"), "register_outer_objectve"),
    "asks for an argument": (outer("a").replace("objectives()", "objectives(what)"), "what"),
    "returns a list": (outer("a").replace("{'a': loss}", "[loss]"), "register_outer_objectives returned list; it must"),
    "returns nothing": (outer("a").replace("return", "lambda:"), "register_outer_objectives returned None; it must"),
    "raises in a hook": (outer("a").replace("return {", "raise OSError('no weights') or {"), "OSError: no weights"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_is_reported_and_all_else_works(how: str, install: Install) -> None:
    source, reason = BROKEN[how]
    install("broken", source, "broken-tricks", "0.3")
    install("zebra", outer("fine"))
    found = load_plugins()
    broken, fine = third_party(found)
    assert broken.origin == "broken-tricks 0.3 (broken)"
    assert broken.error.startswith("Traceback (most recent call last):")
    assert reason in broken.error
    assert not broken.provides
    assert (fine.error, set(fine.provides["register_outer_objectives"])) == ("", {"fine"})
    registry = Registry(found)
    assert resolve([{"outer": "fine"}], registry).outer.name == "fine"
    assert resolve([{"method": "rslad"}], registry).outer.name == "rslad"
    with pytest.raises(UserError, match=r"unknown outer 'a'.*failed to load: broken-tricks 0\.3 \(broken\)"):
        registry.get("outer", "a")


def test_a_name_twice_is_an_error_with_both_origins(install: Install) -> None:
    install("first", outer("mine"))
    install("second", outer("mine"), "second-dist", "2.0")
    with pytest.raises(PluginError) as caught:
        Registry(load_plugins())
    assert "outer 'mine' is registered twice, by first-dist 1.5 (first) and by second-dist 2.0 (second)" in str(
        caught.value
    )


def test_a_built_in_name_cannot_be_taken(install: Install) -> None:
    install("thief", outer("mmard"))
    origin = rf"robustdistill {rd.__version__} \(robustdistill\.builtin\.objectives\)"
    with pytest.raises(PluginError, match=rf"'mmard' is registered twice, by {origin} and by thief-dist 1\.5 \(thief"):
        Registry(load_plugins())


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
