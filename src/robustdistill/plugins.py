"""Finding plugins: the built-ins by name, then every installed distribution's entry points, one by one.

A plugin that does not load is kept with its traceback and what to do about it; everything else goes on.
`ROBUSTDISTILL_PLUGINS` restricts the third-party ones: empty for none, or entry-point names by commas.
"""

import difflib
import importlib
import inspect
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from robustdistill import __version__, hookspecs, mending
from robustdistill.mending import Misfit

GROUP = hookspecs.PROJECT
SWITCH = "ROBUSTDISTILL_PLUGINS"

DEFAULT_PLUGINS = (
    "robustdistill.builtin.objectives",
    "robustdistill.builtin.methods",
    "robustdistill.builtin.attacks",
    "robustdistill.builtin.autoattack",
    "robustdistill.builtin.modifiers",
    "robustdistill.builtin.models",
    "robustdistill.builtin.teachers",
    "robustdistill.builtin.datasets",
)


@dataclass(frozen=True)
class Plugin:
    """One plugin: where it comes from and what it provides, by hook.

    A broken one provides nothing: `error` is its traceback, `reason` the same in a line, `mend` says what to do.
    `seconds` is what loading it took.
    """

    name: str
    distribution: str
    version: str
    provides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str = ""
    reason: str = ""
    mend: str = ""
    seconds: float = 0.0

    @property
    def origin(self) -> str:
        """The distribution, its version and the plugin's own name: "mytricks 0.1 (mytricks)"."""
        return f"{self.distribution} {self.version} ({self.name})"

    @property
    def built_in(self) -> bool:
        """Whether it comes with this package."""
        return self.name in DEFAULT_PLUGINS


def load_plugins() -> list[Plugin]:
    """Every plugin, working or broken, the built-ins first."""
    return [*(_builtin(name) for name in DEFAULT_PLUGINS), *(_third_party(e) for e in installed())]


def hooks() -> list[str]:
    """The names of all hooks."""
    return sorted(n for n in vars(hookspecs) if n.startswith("register_"))


def installed() -> Iterator[EntryPoint]:
    """The entry points of third-party plugins that `ROBUSTDISTILL_PLUGINS` lets in; none of them is loaded."""
    return (entry for entry in _entries() if _let_in(entry.name))


def left_out() -> list[Plugin]:
    """The third-party plugins that `ROBUSTDISTILL_PLUGINS` leaves out; none of them is loaded."""
    return [Plugin(e.name, *_source(e)) for e in _entries() if not _let_in(e.name)]


def _entries() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value))


def _let_in(name: str) -> bool:
    allowed = os.environ.get(SWITCH)
    return allowed is None or name in {n.strip() for n in allowed.split(",")}


def _source(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown distribution", "?")


def _builtin(name: str) -> Plugin:
    began = time.perf_counter()
    provides = _provides(name, importlib.import_module(name))
    return Plugin(name, GROUP, __version__, provides, seconds=time.perf_counter() - began)


def _third_party(entry: EntryPoint) -> Plugin:
    name, version = _source(entry)
    began = time.perf_counter()
    try:
        mending.check_version(entry.dist, GROUP, __version__)
        provides = _provides(entry.name, entry.load())
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises: the rest must go on working
        wrong = mending.told(error), mending.reason(error), mending.mend(error, entry)
        return Plugin(entry.name, name, version, {}, *wrong, seconds=time.perf_counter() - began)
    return Plugin(entry.name, name, version, provides, seconds=time.perf_counter() - began)


def _provides(name: str, module: Any) -> dict[str, Mapping[str, Any]]:
    """What the hooks of one module return, each called in a manager of its own."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    _check_hooks(manager, module)
    manager.register(module, name)
    results = {hook: getattr(manager.hook, hook)() for hook in hooks()}
    provided = {}
    for hook, found in results.items():
        if getattr(manager.hook, hook).get_hookimpls():
            provided[hook] = _mapping(hook, found[0] if found else None, getattr(module, hook))
    return provided


def _check_hooks(manager: pluggy.PluginManager, module: Any) -> None:
    """Misfit for a hook that is misspelt, takes arguments, or lacks its mark."""
    known = hooks()
    for name in dir(module):
        marked = manager.parse_hookimpl_opts(module, name) is not None
        if marked and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            instead = f"rename it to {close[0]}" if close else f"take one of {', '.join(known)}"
            raise Misfit(f"there is no hook {name}", instead, getattr(module, name))
        if not marked and name in known and inspect.isroutine(getattr(module, name)):
            instead = f"write @robustdistill.hookimpl above {name}"
            raise Misfit(f"{name} is not marked as a hook", instead, getattr(module, name))
        if marked and (needed := _needed(getattr(module, name))):
            told = f"{name} asks for {', '.join(needed)}, and hooks are given nothing"
            raise Misfit(told, f"write def {name}():", getattr(module, name))


def _needed(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _mapping(hook: str, found: Any, function: object) -> Mapping[str, Any]:
    """What `function`, the implementation of `hook`, returned. Misfit for what is no mapping from names to its kind."""
    if not isinstance(found, Mapping):
        got = "None" if found is None else type(found).__name__
        returned = inspect.signature(getattr(hookspecs, hook)).return_annotation
        told = f"{hook} returned {got}; it must return a mapping from names"
        raise Misfit(told, f"return {{NAME: UNIT}}, a {returned}", function)
    for name, unit in found.items():
        if wrong := _wrong(hook, name, unit):
            raise Misfit(*wrong, function)
    return dict(found)


def _wrong(hook: str, name: Any, unit: Any) -> tuple[str, str] | None:
    """What is wrong with the kind of a unit and what to do, told when it is registered rather than when it is used."""
    from robustdistill import types

    kind = hook.removeprefix("register_").removesuffix("s")
    record = getattr(types, kind.capitalize(), None)
    if kind == "modifier":
        good, what = isinstance(unit, type) and issubclass(unit, types.Modifier), "a subclass of robustdistill.Modifier"
    elif record is not None:
        at_a_path = kind == "dataset" and isinstance(unit, types.DatasetAt)
        good, what = isinstance(unit, record) or at_a_path, f"a robustdistill.{record.__name__}"
    else:
        good, what = callable(unit), "an objective, a callable (z, *, ...)"
    if not isinstance(name, str):
        return f"{hook} gives a unit the name {name!r}", "write a text: lower-case words joined by hyphens"
    if not good:
        got = f"the class {unit.__name__}" if isinstance(unit, type) else f"an object of type {type(unit).__name__}"
        return f"{hook} gives {name!r} as {got}; it must be {what}", f"make {name!r} {what}"
    return None
