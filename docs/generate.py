"""Writes docs/cli.md, docs/hooks/*.md, and the parts of other pages and README.md between <!-- generated --> markers.

python docs/generate.py            writes them
python docs/generate.py --check    writes nothing, names each file that would change, and exits with 1 if one would
"""

import contextlib
import functools
import inspect
import io
import os
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import hookpages
import tables
from hookpages import BUILT_IN, table
from robustdistill import architectures
from robustdistill.cli.app import command
from robustdistill.cli.flags import PLACES, spelt
from robustdistill.logits import DEFAULT_ROLE
from robustdistill.registry import callable_of, params_model
from robustdistill.report.numbers import percent, radius
from robustdistill.resolve import DEFAULT_DATA, DEFAULT_METHOD
from robustdistill.spec import Node, RunSpec

DOCS = Path(__file__).parent
WIDTH = "80"
PART = re.compile(r"(<!-- generated (\S+) -->\n).*?(<!-- /generated -->)", re.DOTALL)

MEANINGS: dict[str, str] = tomllib.loads((DOCS / "spec-keys.toml").read_text(encoding="utf-8"))


# ---- the command line -------------------------------------------------------------------------------------
def cli() -> str:
    """One heading and one help text a command."""
    head = "# Command line\n\nWritten by `docs/generate.py` from the programs' own help. Exit codes: [runs](runs.md).\n"
    return head + "".join(f"\n## `{name}`\n\n```text\n{help_of(name)}```\n" for name in commands())


def commands(group: Any = None, name: str = "robustdistill") -> Iterator[str]:
    """Every command by its full name."""
    group = command() if group is None else group
    yield name
    for sub, found in getattr(group, "commands", {}).items():
        if found.hidden:
            continue
        yield from commands(found, f"{name} {sub}")


def help_of(name: str) -> str:
    """What `name --help` prints on a terminal of a fixed width, without colour."""
    before, text = dict(os.environ), io.StringIO()
    os.environ.update(COLUMNS=WIDTH, TERMINAL_WIDTH=WIDTH, NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(text):
            command().main([*name.split()[1:], "--help"], prog_name="robustdistill", standalone_mode=False)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().strip().splitlines())


# ---- the spec ---------------------------------------------------------------------------------------------
def keys() -> str:
    """A row a key of RunSpec."""
    rows = [(f"`{k}`", told(f.annotation, f.metadata), default(k, f), MEANINGS[k]) for k, f in flat(RunSpec)]
    return table(("key", "type", "default", "meaning"), rows)


def flat(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a spec with its field; tables of the spec's own are walked, named units are one key."""
    for name, field in model.model_fields.items():
        key, kind = prefix + (field.alias or name), _present(field.annotation)
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind is not Node:
            yield from flat(kind, f"{key}.")
        else:
            yield (f"{key}.ROLE" if typing.get_origin(kind) is dict else key), field


def _present(kind: Any) -> Any:
    """`T` of `T | None` where T is a table."""
    tables = [a for a in typing.get_args(kind) if inspect.isclass(a) and issubclass(a, BaseModel)]
    return tables[0] if tables and typing.get_origin(kind) is types.UnionType else kind


def told(kind: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words, with its bounds."""
    origin, args = typing.get_origin(kind), [a for a in typing.get_args(kind) if a is not types.NoneType]
    if origin is typing.Annotated:
        return told(args[0], args[1:])
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(told(a, metadata) for a in args)
    if origin is tuple:
        return f"list: {told(args[0])}"
    if origin is dict:
        return told(args[1])
    names = {float: "number", int: "integer", str: "text", bool: "true, false", Node: "name and parameters"}
    return " ".join([names[kind], *bounds(metadata)])


def bounds(metadata: Iterable[Any]) -> Iterator[str]:
    """ ">= 0", "< 1" and their like."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for m in metadata:
        yield from bounds(m.metadata) if isinstance(m, FieldInfo) else ()
        yield from (f"{sign} {getattr(m, key)}" for key, sign in signs.items() if hasattr(m, key))


def default(key: str, field: FieldInfo) -> str:
    """Who gives the default: a layer that always speaks, or the field itself."""
    owners = {"method": f"`{DEFAULT_METHOD}`", "data.name": f"the teacher's, else `{DEFAULT_DATA}`"}
    owners |= dict.fromkeys(leaves(BUILT_IN.get("dataset", DEFAULT_DATA).layer()), "the data set's")
    owners |= dict.fromkeys(leaves(BUILT_IN.get("method", "rslad").layer()), "the method's")  # it has milestones
    place = key.replace("ROLE", DEFAULT_ROLE)
    given = (who for leaf, who in owners.items() if f"{leaf}.".startswith(f"{place}."))
    return next(given, value(field.get_default(call_default_factory=True)))


def value(v: Any) -> str:
    if v is PydanticUndefined:
        return "none: it must be given"
    return "none" if v in (None, (), {}) else f"`{str(v).lower() if isinstance(v, bool) else v}`"


def leaves(layer: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a layer."""
    for key, v in layer.items():
        yield from leaves(v, f"{prefix}{key}.") if isinstance(v, Mapping) else [prefix + key]


def units() -> str:
    """A row a parameter of the built-in units; units that share a function share its rows."""
    rows = []
    for kind in ("inner", "outer", "attack", "modifier", "model"):
        shared: dict[Any, list[str]] = {}
        for name, unit in BUILT_IN.units(kind).items():
            shared.setdefault(callable_of(unit), []).append(f"`{name}`")
        for function, names in shared.items():
            for key, f in params_model(function).model_fields.items():
                own = "needed" if f.is_required() else value(f.default)
                rows.append((kind, ", ".join(names), f"`{key}`", told(f.annotation, f.metadata), own))
    return table(("kind", "unit", "parameter", "type", "default"), rows)


def flags() -> str:
    """A row a flag of `train` that stands for a key."""
    places = PLACES | {"teacher": "teachers.ROLE.name"}
    return table(("flag", "key"), [(f"`{spelt(flag)}`", f"`{key}`") for flag, key in places.items()])


def teachers() -> str:
    """A row a registered teacher, with its recorded accuracies in % and what it is called besides."""
    rows = []
    for name, t in BUILT_IN.units("teacher").items():
        numbers = {"clean": t.clean, **t.robust}
        told = ", ".join(f"{attack} {percent(accuracy)}" for attack, accuracy in numbers.items())
        also = ", ".join(f"`{n}`" for n in t.names)
        rows.append((f"`{name}`", also, f"`{t.model}`", t.dataset, radius(t.eps), told, t.licence, t.notes))
    return table(("name", "also", "architecture", "data", "eps", "accuracy %", "licence", "note"), rows)


def models() -> str:
    """A row an architecture or an example of one: the keys of its weights, and what 10 classes of RGB images take."""
    found = architectures.find(BUILT_IN)
    layouts = {a.family or a.name: a.layout for a in found}
    sized = [a for a in found if a.parameters and a.macs]
    rows = [
        (f"`{layouts[name]}`", f"`{name}`", f"`{a.name}`", f"{a.parameters:,}", f"{a.macs:,.0f}")
        for name, a in ((a.family or a.name, a) for a in sized)
    ]
    return table(("keys of the weights", "architecture", "counted", "parameters", "MACs"), rows)


# ---- files ------------------------------------------------------------------------------------------------
PARTS = {
    "spec-keys": keys,
    "spec-units": units,
    "spec-flags": flags,
    "teachers": teachers,
    "models": models,
    "hooks": hookpages.index,
    "testing-functions": hookpages.functions,
    "testing-checks": hookpages.all_checks,
    **{f"table-{name}": functools.partial(tables.made, name) for name in tables.TABLES},
}


def pages(docs: Path) -> dict[Path, str]:
    """Every generated file as it should be."""
    made = {docs / "cli.md": cli(), **hookpages.pages(docs)}
    for path in (docs.parent / "README.md", *sorted(docs.rglob("*.md"))):
        if path not in made and path.exists() and PART.search(text := path.read_text(encoding="utf-8")):
            made[path] = PART.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}{m[3]}", text)
    return made


def stale(docs: Path = DOCS) -> dict[Path, str]:
    """The generated files that are not as they should be, and their text as it should be."""
    return {p: t for p, t in pages(docs).items() if not p.exists() or p.read_text(encoding="utf-8") != t}


def main(arguments: list[str], docs: Path = DOCS) -> int:
    found = stale(docs)
    if "--check" in arguments:
        print("".join(f"{path.name} is not up to date: run `make docs`\n" for path in found), end="")
        return 1 if found else 0
    for path, text in found.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
