"""JSON that every reader accepts: records and paths become plain values, numbers that are not finite become null."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` as JSON can hold it; what is no record, mapping, sequence, path or number stays as it is."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Path():
            return str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def dumps(value: Any) -> str:
    """The text of a JSON file: sorted keys, two spaces, a newline at the end; the same value gives the same text."""
    return json.dumps(plain(value), sort_keys=True, indent=2, allow_nan=False) + "\n"
