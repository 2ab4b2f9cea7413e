"""Where the file of a registered teacher lies, and that it is still the one that came."""

import logging
import re
from pathlib import Path

from robustdistill.data import cache
from robustdistill.errors import DamagedFile, UserError
from robustdistill.outside import from_json
from robustdistill.store.atomic import read_file, sha256, write_atomic
from robustdistill.store.plain import dumps
from robustdistill.types import Teacher

LOG = logging.getLogger("robustdistill")


def place(name: str, teacher: Teacher) -> Path:
    """The file of the teacher that is registered as `name`, whether it is there yet or not.

    What is downloaded lies in `$XDG_CACHE_HOME/robustdistill/teachers/NAME-DATASET.pt`.
    """
    if teacher.path is not None:
        return teacher.path
    stem = name if name.endswith(f"-{teacher.dataset}") else f"{name}-{teacher.dataset}"
    try:
        return cache.folder() / "teachers" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', stem)}.pt"
    except RuntimeError as error:
        raise UserError(f"teacher {name!r} has nowhere to lie: {error}; set XDG_CACHE_HOME to a folder") from error


def check(name: str, teacher: Teacher, path: Path) -> None:
    """DamagedFile if the file at `path` is not the teacher's: by its SHA-256, the published one or the one on record.

    Where a downloaded file has neither, its own goes on record, and that is said.
    """
    if teacher.path is not None and not teacher.sha256:
        return
    found, known = sha256(path), teacher.sha256 or recorded(path)
    if not known:
        record(path, found, str(path))
    elif found != known:
        anew = "" if teacher.path else f"; delete it and {note(path)} to download it anew"
        raise DamagedFile(f"{path} is not the file of teacher {name!r}: its sha256 differs{anew}")


def record(path: Path, digest: str, source: str) -> None:
    """Puts the SHA-256 of the file at `path` on record beside it, and says so."""
    write_atomic(note(path), dumps({"sha256": digest, "source": source}))
    LOG.warning("no SHA-256 of %s is published: %s is on record now, and every later use is compared", path, digest)


def recorded(path: Path) -> str:
    """The SHA-256 on record of a file; "" if there is none. DamagedFile for a record that says nothing."""
    try:
        found = from_json(read_file(note(path)).decode())
    except FileNotFoundError:
        return ""
    except ValueError:
        found = None
    digest = found.get("sha256") if isinstance(found, dict) else None
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise DamagedFile(f"{note(path)} is damaged; delete it and {path} to download the teacher anew")
    return digest


def note(path: Path) -> Path:
    """The record beside a file."""
    return path.with_name(f"{path.name}.json")
