"""Reading a weight file without running code from it, whatever its name says it is."""

import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import load_file

from robustdistill.errors import DamagedFile, UnsafeFile, UserError
from robustdistill.store.pickled import LONGEST, named

SPARE, TIMES = 64 * 2**20, 4  # what is read may take so many bytes more, and so many times those of its file

WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|script|\?xml)", re.IGNORECASE)

PLAIN = re.compile(
    r"torch\._utils\.\w+|torch\.(\w*Storage|Size|device)|(collections|builtins|__builtin__)\.(OrderedDict|set)"
)
# What checkpoints often hold besides: no reason for alarm, and named last.
USUAL = re.compile(
    r"torch\.(nn|_utils|storage|serialization|optim)\..+|(collections|argparse)\.\w+|"
    r"numpy\.(ndarray|dtype|_?core\.(multiarray|numeric)\.\w+)|_codecs\.encode"
)


def load_objects(path: Path) -> object:
    """What the file holds: a dict of tensors (safetensors), or what `torch.save` was given. On the CPU.

    The format is told by the content. Nothing in the file is ever executed.
    Raises UserError if the file cannot be opened; DamagedFile if it is empty, a web page, truncated or
    garbled; UnsafeFile, one of these, if it can only be read by running code.
    """
    head = _first_bytes(path)
    if not head:
        raise DamagedFile(f"{path} is empty: a download or a copy that did not finish; fetch it again")
    if WEB_PAGE.match(head):
        raise DamagedFile(
            f"{path} is a web page, not weights: usually a failed download (a login, quota or confirmation page "
            "saved under the file's name); download it again, for instance in a browser"
        )
    try:
        return load_file(path) if _is_safetensors(head) else _torch_load(path)
    except DamagedFile:
        raise
    except MemoryError:
        raise
    except Exception as error:  # what a garbled file raises depends on where it is garbled
        raise _refusal(path, error) from error


def _first_bytes(path: Path) -> bytes:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would block, and cannot be read twice
            raise OSError("it is no regular file")
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {(error.strerror or str(error)).lower()}") from error


def _is_safetensors(head: bytes) -> bool:
    # Eight bytes with the length of a JSON header, then the header; the format caps it at 100 MB.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def _torch_load(path: Path) -> object:
    with warnings.catch_warnings(), path.open("rb") as file:  # given a path, torch goes by its suffix
        warnings.simplefilter("ignore")  # a TorchScript archive warns before it is refused
        if is_archive(file):
            _check_archive(path, file)
        return torch.load(file, map_location="cpu", weights_only=True)


def room(path: Path) -> int:
    """Bytes that the content of a file may take in memory: honest weights lie in files as they lie there."""
    return SPARE + TIMES * path.stat().st_size


def too_large(path: Path, size: int) -> DamagedFile:
    """The error for a file that would unfold to `size` bytes."""
    return DamagedFile(
        f"{path} would unfold to {size / 1e9:,.3g} GB out of {path.stat().st_size:,} bytes, which weights never do; it "
        "was not read. Fetch it again from a source you trust"
    )


def _check_archive(path: Path, file: IO[bytes]) -> None:
    """DamagedFile for an archive that unfolds without end, or in which a byte changed: torch looks for neither."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if (size := sum(entry.file_size for entry in entries)) > room(path):
            raise too_large(path, size)
        for entry in entries:
            if entry.CRC and not _whole(archive, entry):  # torch can be told to leave them out: then they are 0
                raise DamagedFile(
                    f"{path} was altered: {printable(entry.filename)} in it does not match its checksum; fetch it again"
                )
    file.seek(0)


def _whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as stream:
            while stream.read(2**20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def printable(name: str) -> str:
    """A name from a file as it can be shown: short, and nothing in it moves a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in name)[:LONGEST]


def _refusal(path: Path, error: Exception) -> DamagedFile:
    needed = _code_in(path) if isinstance(error, pickle.UnpicklingError | RuntimeError) else []
    if "TorchScript" in needed or (needed and isinstance(error, pickle.UnpicklingError)):
        return UnsafeFile(
            f"{path} was refused and nothing in it was executed: it does not hold plain tensors, reading it would "
            f"run code ({listed(needed, 4)}). Ask its author for the state dict alone, best as safetensors. The "
            f"last resort, if you trust whoever made the file: `robustdistill import-teacher {shlex.quote(str(path))} "
            "--trust-pickle` runs that code once, in a process of its own, and keeps the tensors alone",
            needed,
        )
    return DamagedFile(
        f"{path} is truncated or garbled, or no weight file at all (safetensors or a PyTorch state dict was "
        "expected): fetch it again and compare its size or checksum with the source's"
    )


def listed(code: Sequence[str], most: int) -> str:
    """Names of functions and classes in words, at most so many; the unusual ones first: none hides behind others."""
    shown = sorted(code, key=lambda name: USUAL.fullmatch(name) is not None)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _code_in(path: Path) -> list[str]:
    """The functions and classes that a pickle asks for, but those of plain tensors; read without running it."""
    try:
        with path.open("rb") as file:
            if not is_archive(file):
                return _callables(file)
            with zipfile.ZipFile(file) as archive:
                return _callables_in(archive)
    except Exception:  # not even a pickle: the caller then calls it garbled
        return []


def is_archive(file: IO[bytes]) -> bool:
    """Whether torch takes a file for a zip archive: by its head. Where a zip only follows, the head is what is run."""
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return head == b"PK\x03\x04"


def _callables_in(archive: zipfile.ZipFile) -> list[str]:
    found: list[str] = []
    for info in archive.infolist():  # every one: of two that are named alike, readers do not take the same
        name = info.filename.rpartition("/")[2].lower()
        if name == "constants.pkl":
            found.insert(0, "TorchScript")
        if name == "data.pkl":
            with archive.open(info) as file:
                found += _callables(file)
    return list(dict.fromkeys(found))


def _callables(stream: IO[bytes]) -> list[str]:
    # Before zip archives, torch wrote three small pickles ahead of the object and one after it.
    found = [name for _ in range(5) for name in named(stream) if not PLAIN.fullmatch(name)]
    return list(dict.fromkeys(found))
