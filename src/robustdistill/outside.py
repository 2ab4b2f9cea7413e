"""Text from outside as plain values: whatever it says, reading it ends in these or in a ValueError."""

import json
import tomllib
from collections.abc import Mapping
from typing import Any

DEEPEST = 32  # levels: deeper than anything of ours, it was made to exhaust whoever walks it


def from_json(content: bytes | str) -> Any:
    """The value of a JSON text. ValueError for what is none, too deep, or could not be written again."""
    value = _shallow(json.loads, content)
    json.dumps(value, ensure_ascii=False).encode()  # half a character ("\\ud800") is a UnicodeEncodeError, a ValueError
    return value


def from_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text. ValueError for what is none or too deep; a number may be too long for Python."""
    table: dict[str, Any] = _shallow(tomllib.loads, text)
    return table


def sized(text: str) -> tuple[str, str]:
    """A path and the size in pixels behind it, "" for none: "birds@224" is ("birds", "224")."""
    path, _, size = text.rpartition("@")
    return (path, size) if path and size.isdigit() else (text, "")


def _shallow(read: Any, text: bytes | str) -> Any:
    try:
        value = read(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if _too_deep(value, DEEPEST):
        raise ValueError("it is nested too deep")
    return value


def _too_deep(value: object, levels: int) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    inside = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_too_deep(item, levels - 1) for item in inside)
