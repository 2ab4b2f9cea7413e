"""`robustdistill explain`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from robustdistill.errors import PluginError, UserError, nearest

if TYPE_CHECKING:
    from robustdistill.registry import Registry

Pairs = Iterator[tuple[str, str]]


def explain(
    name: Annotated[
        str, typer.Argument(help="A method (or METHOD@VARIANT), objective, attack, model, ...", metavar="NAME")
    ],
) -> None:
    """Explain anything that has a name: formulas, what is read, protocol, parameters, source."""
    from robustdistill.cli import explained, render
    from robustdistill.registry import default_registry

    registry = default_registry()
    base = name.partition("@")[0]
    if base in registry.names("method"):
        render.show_pairs(explained.method(name, registry))
        return
    for i, (kind, unit) in enumerate(_units(name, registry)):
        print("\n" if i else "", end="")
        render.show_pairs(explained.unit(kind, unit, registry))


def _units(name: str, registry: "Registry") -> list[tuple[str, str]]:
    """Everything of that name, by kind and registered name."""
    from robustdistill.naming import called
    from robustdistill.registry import KINDS

    kinds = [k for k in KINDS if registry.knows(k, name)]
    found = [(kind, name) for kind in kinds] + [("teacher", n) for n in called(name, registry).values() if n != name]
    if not found:
        if isinstance(blamed := registry.unknown("method", name), PluginError):
            raise blamed
        known = {n for k in KINDS for n in registry.names(k)}
        raise UserError(f"nothing is named {name!r}{nearest(name, known)}")
    return found
