"""Reading a weight file without running code from it, whatever its name says it is."""

import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import load_file

from robustdistill.errors import DamagedFile, UserError

WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|script|\?xml)", re.IGNORECASE)

PLAIN = re.compile(
    r"torch\._utils\.\w+|torch\.(\w*Storage|Size|device)|(collections|builtins|__builtin__)\.(OrderedDict|set)"
)


def load_objects(path: Path) -> object:
    """What the file holds: a dict of tensors (safetensors), or what `torch.save` was given. On the CPU.

    The format is told by the content. Nothing in the file is ever executed.
    Raises UserError if the file cannot be opened; DamagedFile if it is empty, a web page, truncated or
    garbled, or if it can only be read by running code.
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
    except MemoryError:
        raise
    except Exception as error:  # what a garbled file raises depends on where it is garbled
        raise DamagedFile(_why_unreadable(path, error)) from error


def _first_bytes(path: Path) -> bytes:
    try:
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
        return torch.load(file, map_location="cpu", weights_only=True)


def _why_unreadable(path: Path, error: Exception) -> str:
    needed = _code_in(path) if isinstance(error, pickle.UnpicklingError | RuntimeError) else []
    if "TorchScript" in needed or (needed and isinstance(error, pickle.UnpicklingError)):
        return (
            f"{path} was refused and nothing in it was executed: it does not hold plain tensors, reading it would "
            f"run code ({', '.join(needed[:3])}). Ask its author for the state dict alone, best as safetensors"
        )
    return (
        f"{path} is truncated or garbled, or no weight file at all (safetensors or a PyTorch state dict was "
        "expected): fetch it again and compare its size or checksum with the source's"
    )


def _code_in(path: Path) -> list[str]:
    """The functions and classes that a pickle asks for, but those of plain tensors; read without running it."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _callables(file)
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2]: name for name in archive.namelist()}
            if "constants.pkl" in members:
                return ["TorchScript"]
            with archive.open(members["data.pkl"]) as file:
                return _callables(file)
    except Exception:  # not even a pickle: the caller then calls it garbled
        return []


def _callables(stream: IO[bytes]) -> list[str]:
    names: list[str] = []
    for _ in range(4):  # before zip archives, torch wrote three small pickles ahead of the object
        strings: list[str] = []
        for opcode, argument, _position in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
        names = [name for name in names if not PLAIN.fullmatch(name)]
        if names:
            break
    return list(dict.fromkeys(names))
