"""JSON files that end in a digest of their own content, so that no byte of it changes unnoticed.

The digest proves that a file is as it was written, not who wrote it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdistill.errors import DamagedFile
from robustdistill.outside import from_json
from robustdistill.store.atomic import read_file, write_atomic
from robustdistill.store.plain import dumps

DIGEST = "digest"


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of `body` as JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(dumps(body).encode()).hexdigest()


def spelt(body: Mapping[str, Any]) -> str:
    """The text of a file that holds `body` and its digest."""
    return dumps({**body, DIGEST: digest(body)})


def write(path: Path, body: Mapping[str, Any]) -> None:
    """Writes or replaces `path` in one step."""
    write_atomic(path, spelt(body))


def read(path: Path, mend: str) -> dict[str, Any]:
    """What `write` was given; a file without a digest, as older versions wrote them, is taken as it is.

    Raises DamagedFile when it is missing, no JSON object, or was changed by a byte; `mend` says what to do then.
    """
    try:
        content = read_file(path)
        body = from_json(content)
    except (ValueError, FileNotFoundError):
        body = None
    if not isinstance(body, dict):
        raise DamagedFile(f"{path} is missing or not a JSON object; {mend}.")
    if body.pop(DIGEST, None) is not None and content != spelt(body).encode():
        raise DamagedFile(f"{path} was altered: it does not match its own digest; {mend}.")
    return body
