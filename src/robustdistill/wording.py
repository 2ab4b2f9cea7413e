"""What pydantic found wrong with a user's values, in sentences."""

import json
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from robustdistill.errors import nearest


def sentences(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Pydantic's findings on `model` as one sentence each: the place, what is wrong, the nearest known key."""
    return "; ".join(_sentence(dict(e), where, model) for e in error.errors())


def _sentence(e: dict[str, Any], where: str, model: type[BaseModel]) -> str:
    place = ".".join(str(p) for p in ([where] if where else []) + list(e["loc"]))
    if e["type"] == "extra_forbidden":
        *parents, leaf = e["loc"]
        inside = "" if parents else _table_with(str(leaf), model)
        hint = f"; did you mean {inside!r}?" if inside else ""
        return f"unknown key {place!r}{nearest(str(leaf), _keys(model, parents), hint=hint)}"
    if e["type"] == "missing":
        return f"{place} is missing"
    if e["type"] in ("tuple_type", "list_type") and isinstance(e["input"], int | float | str):
        return f"{place} = {e['input']!r}: this is a list; write [{json.dumps(e['input'])}]"
    message = e["msg"].removeprefix("Value error, ")
    return f"{place} = {e['input']!r}: {message[0].lower()}{message[1:]}" if place else message


def _table_with(leaf: str, model: type[BaseModel]) -> str:
    """The place of the key `leaf` where a table of `model` has it: "optim.lr"."""
    tables = ((name, field.annotation) for name, field in model.model_fields.items())
    return next((f"{name}.{leaf}" for name, t in tables if leaf in getattr(t, "model_fields", ())), "")


def _keys(model: Any, path: Iterable[str | int]) -> list[str]:
    """The keys of the table at `path` in `model`, as a user writes them."""
    for part in path:
        mapping = get_origin(model) is dict
        model = get_args(model)[-1] if mapping else model.model_fields[part].annotation
        if type(None) in get_args(model):  # `T | None`
            model = get_args(model)[0]
    return [f.alias or name for name, f in model.model_fields.items()]
