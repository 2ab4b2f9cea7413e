"""Finding plugins: the built-ins by name, then every installed distribution's entry points, one by one.

A plugin that does not load is kept as a `Broken` record with its traceback; everything else goes on.
`ROBUSTDISTILL_PLUGINS` restricts the third-party ones: empty for none, or entry-point names by commas.
"""

import importlib
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from robustdistill import hookspecs

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
    """One plugin: where it comes from and what it provides; `error` is a traceback when it is broken."""

    name: str
    distribution: str
    version: str
    provides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str = ""

    @property
    def origin(self) -> str:
        """The distribution, its version and the plugin's own name: "mytricks 0.1 (mytricks)"."""
        return f"{self.distribution} {self.version} ({self.name})"


def load_plugins() -> list[Plugin]:
    """Every plugin, working or broken, the built-ins first."""
    return [*(_builtin(name) for name in DEFAULT_PLUGINS), *(_third_party(e) for e in installed())]


def hooks() -> list[str]:
    """The names of all hooks."""
    return sorted(n for n in vars(hookspecs) if n.startswith("register_"))


def installed() -> Iterator[EntryPoint]:
    """The entry points of third-party plugins that `ROBUSTDISTILL_PLUGINS` lets in; none of them is loaded."""
    allowed = os.environ.get(SWITCH)
    names = None if allowed is None else {n.strip() for n in allowed.split(",")}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        if names is None or entry.name in names:
            yield entry


def _builtin(name: str) -> Plugin:
    from robustdistill import __version__

    return Plugin(name, "robustdistill", __version__, _provides(name, importlib.import_module(name)))


def _third_party(entry: EntryPoint) -> Plugin:
    name, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown distribution", "?")
    try:
        return Plugin(entry.name, name, version, _provides(entry.name, entry.load()))
    except (Exception, SystemExit):  # whatever a stranger's module raises: the rest must go on working
        return Plugin(entry.name, name, version, error=traceback.format_exc())


def _provides(name: str, module: Any) -> dict[str, Mapping[str, Any]]:
    """What the hooks of one module return, each called in a manager of its own: pluggy checks the names."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    results = {hook: getattr(manager.hook, hook)() for hook in hooks()}
    for hook, found in results.items():
        if not found and getattr(manager.hook, hook).get_hookimpls():
            raise TypeError(f"{hook} returned None; it must return a mapping from names")
        if found and not isinstance(found[0], Mapping):
            raise TypeError(f"{hook} returned {type(found[0]).__name__}; it must return a mapping from names")
    provided: dict[str, Mapping[str, Any]] = {hook: dict(found[0]) for hook, found in results.items() if found}
    for hook, units in provided.items():
        for name, unit in units.items():
            _check(hook, name, unit)
    return provided


def _check(hook: str, name: str, unit: Any) -> None:
    """TypeError for a unit of a wrong kind, found when it is registered rather than when it is used."""
    from robustdistill import types

    kind = hook.removeprefix("register_").removesuffix("s")
    record = getattr(types, kind.capitalize(), None)
    if kind == "modifier":
        good, what = isinstance(unit, type) and issubclass(unit, types.Modifier), "a subclass of Modifier"
    elif record is not None:
        at_a_path = kind == "dataset" and isinstance(unit, types.DatasetAt)
        good, what = isinstance(unit, record) or at_a_path, f"a robustdistill.{record.__name__}"
    else:
        good, what = callable(unit), "an objective, a callable (z, *, ...)"
    if not isinstance(name, str) or not good:
        raise TypeError(f"{hook} gives {name!r} as {type(unit).__name__}; it must be {what}")
