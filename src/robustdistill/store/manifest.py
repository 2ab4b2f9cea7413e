"""A checkpoint's list of its own files: size and SHA-256 of each, and of the list itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdistill.errors import DamagedFile
from robustdistill.outside import from_json
from robustdistill.store import sealed
from robustdistill.store.atomic import read_file, sha256
from robustdistill.store.eventlog import now
from robustdistill.store.plain import plain

NAME = "manifest.json"
SCHEMA = 1


def write(folder: Path, sequence: int, meta: Mapping[str, Any]) -> None:
    """List the files of `folder` in `manifest.json`. `sequence` grows from one save to the next."""
    files = {path.name: {"sha256": sha256(path), "size": path.stat().st_size} for path in folder.iterdir()}
    body = {"schema": SCHEMA, "sequence": sequence, "saved": now(), "files": files, "meta": plain(meta)}
    sealed.write(folder / NAME, body)


def verified(folder: Path) -> dict[str, Any]:
    """The manifest, once every file has been found whole and unaltered.

    Raises DamagedFile naming the first file that is missing, extra, of another size or content, or of a
    newer schema.
    """
    body = read(folder)
    _same_names(folder, set(body["files"]))
    for name, entry in body["files"].items():
        _same_content(folder / name, entry)
    return body


def sequence(folder: Path) -> int:
    """The place of a checkpoint in the order of saving, -1 when its manifest is unreadable. Verifies nothing."""
    try:
        return int(from_json(read_file(folder / NAME))["sequence"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return -1


def damaged(path: Path, what: str) -> DamagedFile:
    """The error for a checkpoint's file `path`, with the way out."""
    return DamagedFile(f"{path} {what}. Delete {path.parent} and use an earlier checkpoint, or copy it anew.")


def read(folder: Path) -> dict[str, Any]:
    """The manifest: of a known schema, matching its own digest, and spelt as `write` spells it to the byte.

    The files that it lists are not looked at. Raises DamagedFile.
    """
    path = folder / NAME
    try:
        content = read_file(path)
        body = from_json(content)
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except ValueError:
        raise damaged(path, "is not JSON") from None
    _known_schema(path, body)
    body.pop(sealed.DIGEST, None)
    if content != sealed.spelt(body).encode():
        raise damaged(path, "was altered: it does not match its own digest")
    if not _complete(body):
        raise damaged(path, "is no checkpoint manifest")
    return dict(body)


def _complete(body: Mapping[str, Any]) -> bool:
    """Whether it has the parts that `write` writes, each of its kind."""
    files, meta = body.get("files"), body.get("meta")
    entries = files.values() if isinstance(files, dict) else [None]
    known = all(isinstance(e, dict) and isinstance(e.get("size"), int) and "sha256" in e for e in entries)
    return known and isinstance(meta, dict)


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
    if not path.is_file():
        raise damaged(path, "is no file")
    size = path.stat().st_size
    if size != entry["size"]:
        raise damaged(path, f"has {size} bytes instead of {entry['size']}: it was cut short or replaced")
    if sha256(path) != entry["sha256"]:
        raise damaged(path, "was altered: its SHA-256 is not the manifest's")
