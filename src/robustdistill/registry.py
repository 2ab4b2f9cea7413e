"""All that has a name: merges what plugins return, looks names up, checks parameters by signatures."""

import functools
import inspect
import re
import string
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model

from robustdistill.errors import PluginError, RobustDistillError, UserError, nearest
from robustdistill.hints import hint
from robustdistill.hookspecs import PROJECT
from robustdistill.outside import sized
from robustdistill.plugins import SWITCH, Plugin, load_plugins
from robustdistill.quantities import parse_number
from robustdistill.wording import sentences

KINDS = {
    "method": "register_methods",
    "inner": "register_inner_objectives",
    "outer": "register_outer_objectives",
    "attack": "register_attacks",
    "model": "register_models",
    "teacher": "register_teachers",
    "modifier": "register_modifiers",
    "dataset": "register_datasets",
}
LISTED = {kind: f"robustdistill list {kind if kind in ('inner', 'outer') else f'{kind}s'}" for kind in KINDS}
RESERVED = {"eps", "generator", "num_classes", "in_channels", "image_size"}  # given by the engine, not by the user


@dataclass(frozen=True)
class Entry:
    """A named unit, who registered it, and the parameters that its name itself carries."""

    unit: Any
    origin: str
    params: Mapping[str, Any]


class Registry:
    """The merged hooks of a list of plugins.

    A name that two of them register is an error when it is asked for, and nobody's until then.
    """

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self._entries: dict[str, dict[str, list[Entry]]] = {kind: {} for kind in KINDS}
        for plugin in plugins:
            for kind, hook in KINDS.items():
                for name, unit in plugin.provides.get(hook, {}).items():
                    self._entries[kind].setdefault(name, []).append(Entry(unit, plugin.origin, {}))

    def names(self, kind: str) -> list[str]:
        """All names of a kind, in the order of registration."""
        return list(self._entries[kind])

    def units(self, kind: str) -> Mapping[str, Any]:
        """The units of a kind by name. One that clashes is not listed, and a PluginError when asked for."""
        return Units(self, kind)

    def entry(self, kind: str, name: str) -> Entry:
        """The unit `name` of a kind; a UserError with the nearest name if there is none.

        PluginError if several plugins register the name, or if it seems to belong to a broken one.
        """
        if clash := self.clash(kind, name):
            raise PluginError(clash)
        entries = self._entries[kind]
        if name in entries:
            return entries[name][0]
        for template, (entry, *_) in entries.items():
            if (fields := match_template(template, name)) is not None:
                return Entry(entry.unit, entry.origin, fields)
        raise self.unknown(kind, name)

    def clash(self, kind: str, name: str) -> str:
        """The sentence on a name that several plugins register, as itself or as a case of a template; else empty."""
        entries = self._entries[kind]
        found = [e for n, es in entries.items() if n == name or match_template(n, name) is not None for e in es]
        origins = list(dict.fromkeys(e.origin for e in found))
        if len(origins) < 2:
            return ""
        rest = [p.name for p in self.plugins if not p.built_in and not p.error and p.origin != origins[-1]]
        return (
            f"{kind} {name!r} is registered twice, by {' and by '.join(origins)}; uninstall one of them, or leave the "
            f"last one out: {SWITCH}={','.join(rest) or repr('')}"
        )

    def unknown(self, kind: str, name: str, tail: str = "") -> UserError | PluginError:
        """The error for a name that nobody registered; a broken plugin is to blame where its name says so."""
        broken = [p for p in self.plugins if p.error]
        for plugin in broken:
            own = plugin.distribution.removeprefix(f"{PROJECT}-")
            if any(f"{name}-".startswith(f"{n}-") for n in (plugin.name, plugin.distribution, own)):
                return PluginError(
                    f"unknown {kind} {name!r}, and the plugin {plugin.origin} does not work: {plugin.reason}. "
                    f"To mend it: {plugin.mend}"
                )
        told = ", ".join(p.origin for p in broken)
        also = f" These plugins failed to load: {told}; see `robustdistill plugins list`." if broken else ""
        known = nearest(name, self._known(kind), LISTED[kind], hint(kind, name, self.units(kind)))
        return UserError(f"unknown {kind} {name!r}{known}{tail}{also}")

    def _known(self, kind: str) -> list[str]:
        """All names of a kind, further ones included."""
        return [k for name, unit in self.units(kind).items() for k in (name, *getattr(unit, "names", ()))]

    def knows(self, kind: str, name: str) -> bool:
        """Whether a unit of a kind has this name, or a family does."""
        return any(name == known or match_template(known, name) is not None for known in self._entries[kind])

    def get(self, kind: str, name: str) -> Any:
        """The unit itself."""
        return self.entry(kind, name).unit

    def dataset(self, name: str, directory: str | Path | None = None) -> Any:
        """The data set `name`; one that is found by a path ("imagefolder:birds"), there or in `directory`."""
        entry, folder = self.entry("dataset", name), Path(directory) if directory is not None else None
        if "{" in name:
            raise UserError(f"write a path in the place of {{path}}: {name.replace('{path}', 'PATH')}")
        return entry.unit.find(entry.params["path"], folder) if entry.params else entry.unit

    def class_names(self, name: str, directory: str | Path | None = None) -> tuple[str, ...]:
        """What the classes of a data set are called: by its files where these are on this disk and say so."""
        dataset = self.dataset(name, directory)
        try:
            here = dataset.look(Path(directory) if directory is not None else None) if dataset.look else None
            names: tuple[str, ...] = here.names() if here else ()
        except (RobustDistillError, OSError):  # other files than it should have
            names = ()
        return names if len(names) == len(dataset.classes) else dataset.classes

    def datasets(self) -> dict[str, Any]:
        """The data sets that need no path, by name."""
        return {name: unit for name, unit in self.units("dataset").items() if "{" not in name}

    def placed(self, name: str) -> tuple[str, str | None]:
        """A data set's name as results tell of it, and the folder in it: "imagefolder:/data/birds@224" is
        ("imagefolder:birds@224", "/data/birds"). None for one that needs no path.
        """
        params = self.entry("dataset", name).params
        if not params:
            return name, None
        path, size = sized(params["path"])
        return name.removesuffix(params["path"]) + (Path(path).name or path) + (f"@{size}" if size else ""), path

    def params(self, kind: str, name: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """`given` checked by the unit's signature, with every default filled in."""
        entry = self.entry(kind, name)
        fixed = {**entry.params, **(getattr(entry.unit, "params", {}) if kind == "attack" else {})}
        model = params_model(callable_of(entry.unit))
        clash = sorted(set(given) & set(entry.params))
        if clash and any(given[k] != entry.params[k] for k in clash):
            raise UserError(f"{where}: {', '.join(clash)} is part of the name {name!r}; name another one instead")
        try:
            return model.model_validate({**fixed, **given}).model_dump()
        except ValidationError as error:
            raise UserError(sentences(error, where, model)) from None

    def build(self, kind: str, name: str, params: Mapping[str, Any]) -> Any:
        """A unit ready to call: a function with its parameters bound, or a fresh instance of a class."""
        unit = callable_of(self.get(kind, name))
        return unit(**params) if inspect.isclass(unit) else functools.partial(unit, **params)


@dataclass(frozen=True)
class Units(Mapping[str, Any]):
    """The units of a kind, looked up in a registry by their registered names."""

    registry: Registry
    kind: str

    def __getitem__(self, name: str) -> Any:
        if name not in self.registry.names(self.kind):
            raise KeyError(name)
        return self.registry.get(self.kind, name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.registry.names(self.kind) if not self.registry.clash(self.kind, name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def callable_of(unit: Any) -> Callable[..., Any]:
    """The function or class whose signature holds the parameters: a record's own, or the unit itself."""
    own = None if inspect.isclass(unit) else getattr(unit, "run", None) or getattr(unit, "build", None)
    return typing.cast(Callable[..., Any], own or unit)


def match_template(template: str, name: str) -> dict[str, Any] | None:
    """What `name` puts into the fields of a template: text after a colon ("timm:{network}"), else an integer
    ("wrn-{depth}-{width}").
    """
    parts = [(literal, field) for literal, field, _, _ in string.Formatter().parse(template)] if "{" in template else []
    text = {field: literal.endswith(":") for literal, field in parts if field}
    pattern = "".join(
        re.escape(literal) + (f"(?P<{field}>{'.+' if text[field] else '[0-9]+'})" if field else "")
        for literal, field in parts
    )
    found = re.fullmatch(pattern, name) if text else None
    return {k: v if text[k] else int(v) for k, v in found.groupdict().items()} if found else None


@functools.cache
def params_model(unit: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the keyword-only arguments of a function, or of a class's `__init__`."""
    hints, fields = _hints(unit), dict[str, Any]()
    for p in inspect.signature(unit).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.name not in RESERVED:
            if p.name not in hints:
                raise PluginError(f"{_place(unit)}: annotate the parameter {p.name!r}")
            if p.name == "name":
                raise PluginError(f"{_place(unit)}: 'name' is the unit's own name in a spec; rename the parameter")
            default = ... if p.default is p.empty else p.default
            fields[p.name] = (Annotated[hints[p.name], BeforeValidator(parse_number)], default)
    return create_model("params", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def _hints(unit: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(unit.__init__ if inspect.isclass(unit) else unit, include_extras=True)
    except (NameError, TypeError) as error:  # imported under TYPE_CHECKING alone; or no function at all
        raise PluginError(f"{_place(unit)}: its annotations cannot be read at run time: {error}") from error


def _place(unit: Callable[..., Any]) -> str:
    return f"{unit.__module__}.{getattr(unit, '__qualname__', repr(unit))}"


@functools.cache
def default_registry() -> Registry:
    """The registry of everything installed, made once per process."""
    return Registry(load_plugins())
