"""A checkpoint's list of its own files: size and SHA-256 of each, and of the list itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdistill.errors import DamagedFile
from robustdistill.store.atomic import sha256, write_atomic
from robustdistill.store.eventlog import now
from robustdistill.store.plain import dumps, plain

NAME = "manifest.json"
SCHEMA = 1


def write(folder: Path, sequence: int, meta: Mapping[str, Any]) -> None:
    """List the files of `folder` in `manifest.json`. `sequence` grows from one save to the next."""
    files = {path.name: {"sha256": sha256(path), "size": path.stat().st_size} for path in folder.iterdir()}
    body = {"schema": SCHEMA, "sequence": sequence, "saved": now(), "files": files, "meta": plain(meta)}
    write_atomic(folder / NAME, dumps(body | {"digest": _digest(body)}))


def verified(folder: Path) -> dict[str, Any]:
    """The manifest, once every file has been found whole and unaltered.

    Raises DamagedFile naming the first file that is missing, extra, of another size or content, or of a
    newer schema.
    """
    body = _verified_manifest(folder / NAME)
    _same_names(folder, set(body["files"]))
    for name, entry in body["files"].items():
        _same_content(folder / name, entry)
    return body


def sequence(folder: Path) -> int:
    """The place of a checkpoint in the order of saving, -1 when its manifest is unreadable. Verifies nothing."""
    try:
        return int(json.loads((folder / NAME).read_bytes())["sequence"])
    except (OSError, ValueError, TypeError, KeyError):
        return -1


def damaged(path: Path, what: str) -> DamagedFile:
    """The error for a checkpoint's file `path`, with the way out."""
    return DamagedFile(f"{path} {what}. Delete {path.parent} and use an earlier checkpoint, or copy it anew.")


def _verified_manifest(path: Path) -> dict[str, Any]:
    """The manifest: of a known schema, matching its own digest, and spelt as `write` spells it to the byte."""
    try:
        content = path.read_bytes()
        body = json.loads(content)
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except ValueError:
        raise damaged(path, "is not JSON") from None
    _known_schema(path, body)
    digest = body.pop("digest", None)
    if digest != _digest(body) or content != dumps(body | {"digest": digest}).encode():
        raise damaged(path, "was altered: it does not match its own digest")
    return dict(body)


def _known_schema(path: Path, body: Any) -> None:
    schema = body.get("schema") if isinstance(body, dict) else None
    if not isinstance(schema, int):
        raise damaged(path, "is no checkpoint manifest")
    if schema > SCHEMA:
        raise DamagedFile(
            f"{path} has schema {schema}, but this robustdistill reads up to {SCHEMA}. "
            "Upgrade robustdistill, or copy the checkpoint anew if it was not written by a newer one."
        )


def _same_names(folder: Path, listed: set[str]) -> None:
    found = {path.name for path in folder.iterdir()} - {NAME}
    if missing := sorted(listed - found):
        raise damaged(folder / missing[0], "is missing")
    if extra := sorted(found - listed):
        raise damaged(folder / extra[0], "does not belong to the checkpoint: the manifest does not list it")


def _same_content(path: Path, entry: Mapping[str, Any]) -> None:
    size = path.stat().st_size
    if size != entry["size"]:
        raise damaged(path, f"has {size} bytes instead of {entry['size']}: it was cut short or replaced")
    if sha256(path) != entry["sha256"]:
        raise damaged(path, "was altered: its SHA-256 is not the manifest's")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(dumps(body).encode()).hexdigest()
