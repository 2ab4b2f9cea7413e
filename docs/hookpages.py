"""The pages docs/hooks/HOOK.md, the index of hooks, and what `robustdistill.testing` checks: all from the code."""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from robustdistill import hookspecs, testing
from robustdistill import types as records
from robustdistill.plugins import load_plugins
from robustdistill.registry import KINDS, Registry
from robustdistill.testing.checks import name_of, promise
from robustdistill.testing.plugin import CHECKS

BUILT_IN = Registry([p for p in load_plugins() if p.distribution == "robustdistill"])
EXAMPLES = Path(__file__).parent / "hooks"
USES = {  # how a user names a unit of the kind
    "method": "train --method NAME",
    "inner": "train --inner NAME",
    "outer": "train --outer NAME",
    "attack": "eval --attacks NAME",
    "model": "train --student NAME",
    "teacher": "train --teacher NAME",
    "modifier": "train --with NAME",
    "dataset": "train --data NAME",
}
FUNCTIONS = {  # of robustdistill.testing; teachers and data sets are checked by `plugins check` alone
    "method": "check_method(method)",
    "inner": 'check_objective(objective, "inner")',
    "outer": "check_objective(objective)",
    "attack": "check_attack(attack)",
    "model": "check_model(model)",
    "modifier": "check_modifier(modifier)",
}


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---- the page of a hook -----------------------------------------------------------------------------------
def pages(docs: Path) -> dict[Path, str]:
    """A page for each hook."""
    return {docs / "hooks" / f"{hook}.md": page(kind, hook) for kind, hook in KINDS.items()}


def page(kind: str, hook: str) -> str:
    example = (EXAMPLES / f"{hook}.py").read_text(encoding="utf-8")
    parts = (
        f"# `{signature(hook)}`",
        f"{inspect.getdoc(getattr(hookspecs, hook))} In use: `robustdistill {USES[kind]}`.",
        f"## What it returns\n\nA mapping from names, lower-case words joined by hyphens, to this:\n\n{returned(hook)}",
        "## A whole plugin\n\nThe module that an [entry point](../writing-a-plugin.md) names:\n\n"
        f"```python\n{example}```\n",
        f"## What holds it\n\n{held(kind)}",
        f"## Built in\n\n{', '.join(f'`{name}`' for name in BUILT_IN.names(kind))}. [All hooks](../hooks.md).",
    )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def signature(hook: str) -> str:
    """`register_models() -> Mapping[str, Model]`"""
    return f"{hook}() -> {inspect.signature(getattr(hookspecs, hook)).return_annotation}"


def returned(hook: str) -> str:
    """The records that a hook gives by name: docstring and fields of each."""
    return "\n".join(map(told, records_of(hook)))


def told(record: Any) -> str:
    quote = f"`{record.__name__}`: {inspect.getdoc(record)}".splitlines()
    text = "".join(f"> {line}".rstrip() + "\n" for line in quote)
    if not dataclasses.is_dataclass(record):
        return text
    return f"{text}\n{table(('field', 'type', 'default'), fields(record))}"


def records_of(hook: str) -> list[Any]:
    names = re.findall(r"\w+", str(inspect.signature(getattr(hookspecs, hook)).return_annotation))
    return [getattr(records, name) for name in names if hasattr(records, name)]


def fields(record: Any) -> Iterator[tuple[str, str, str]]:
    """A row a field of a dataclass."""
    for field in dataclasses.fields(record):
        made = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if made else field.default  # type: ignore[misc]
        kind = re.sub(r"\b\w+\.", "", inspect.formatannotation(field.type)).replace("|", "\\|")
        yield f"`{field.name}`", f"`{kind}`", "required" if default is dataclasses.MISSING else spelt(default)


def spelt(default: Any) -> str:
    return "none" if default in (None, "", (), {}) else f"`{default}`"


def held(kind: str) -> str:
    """Who checks a unit of the kind, and what."""
    test = f"; in a test of yours `robustdistill.testing.{FUNCTIONS[kind]}` does" if kind in FUNCTIONS else ""
    return f"`robustdistill plugins check` runs these{test}. [More](../testing.md).\n\n{checks(kind)}"


def checks(kind: str) -> str:
    """A row a check of the kind."""
    return table(("check", "what it holds"), ((f"`{name_of(c)}`", promise(c)) for c in CHECKS[kind]))


# ---- parts of other pages ---------------------------------------------------------------------------------
def index() -> str:
    """A row a hook."""
    rows = (
        (
            f"[`{hook}`](hooks/{hook}.md)",
            " or ".join(f"`{r.__name__}`" for r in records_of(hook)),
            inspect.getdoc(getattr(hookspecs, hook)) or "",
        )
        for hook in KINDS.values()
    )
    uses = (f"`{USES[kind]}`" for kind in KINDS)
    return table(("hook", "by name", "what", "in use"), ((*row, use) for row, use in zip(rows, uses, strict=True)))


def functions() -> str:
    """A row a function of `robustdistill.testing`."""
    rows = []
    for name in testing.__all__:
        function = getattr(testing, name)
        said = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
        rows.append((f"`{name}`", f"`{'`, `'.join(inspect.signature(function).parameters)}`", said))
    return table(("function", "arguments", "what it does"), rows)


def all_checks() -> str:
    """The checks of each kind under a heading; an inner objective is held to what an outer one is."""
    titles = {k: f"{k.capitalize()}s" for k in KINDS if k != "inner"} | {"outer": "Objectives", "dataset": "Data sets"}
    return "\n".join(f"### {title}\n\n{checks(kind)}" for kind, title in titles.items())
