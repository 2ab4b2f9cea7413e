"""Finished parts of a long computation, one file each: an interrupted run finds them again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robustdistill.store.atomic import read_file, tidy, write_atomic

ENDING = ".part"
DIGEST = 32  # bytes of SHA-256, at the head of a file


@dataclass(frozen=True)
class Partial:
    """A folder of named tensors, `<key>.part` for each key: SHA-256, then safetensors; made when the first is put.

    Several processes may share one: a file is whole or not there. A damaged one counts as not there.
    """

    folder: Path

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What `put` was given under this key, on the CPU; None if nothing whole and unaltered is there."""
        try:
            content = read_file(self._path(key))
            whole = hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]
            return load(content[DIGEST:]) if whole else None
        except (FileNotFoundError, SafetensorError):
            return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keeps the tensors in one step; a crash leaves nothing behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Cloned because the format refuses tensors that share memory.
        plain = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        content = save(plain)
        write_atomic(self._path(key), hashlib.sha256(content).digest() + content)

    def clear(self) -> None:
        """Deletes the parts; the folder too, if nothing else lies in it."""
        if not self.folder.is_dir():
            return
        tidy(self.folder)
        for path in self.folder.glob(f"*{ENDING}"):
            path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{ENDING}"
