"""Checkpoints: directories that appear whole, prove on loading that no byte changed, and run no code.

`root/<name>/` holds `student.safetensors` and its like, `state.pt` and `manifest.json`; beside them lie
one-line pointer files such as `latest` and `best`. One process at a time may write (`RunDir.locked`).
"""

import io
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from robustdistill.errors import DamagedFile, UserError
from robustdistill.store import manifest
from robustdistill.store.atomic import partial, publish, remove, sync, tidy, write_atomic
from robustdistill.store.weights import save_weights

STATE = "state.pt"
WEIGHTS = ".safetensors"
LATEST = "latest"
NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """What `load` read, all tensors on the CPU. `weights["student"]` is a state_dict."""

    path: Path
    weights: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """What the saver said of it: epoch, step, spec hash, versions."""
        return dict(self.manifest["meta"])

    @property
    def judged(self) -> dict[str, Tensor]:
        """The weights that were judged: the student's, or their average. DamagedFile if the saver did not say which."""
        return self.weights[self.judged_name]

    @property
    def judged_name(self) -> str:
        """What these weights, and their file, are called."""
        name = self.meta.get("judged")
        if not isinstance(name, str) or name not in self.weights:
            raise manifest.damaged(self.path / manifest.NAME, "does not say which weights were judged")
        return name


@dataclass(frozen=True)
class Found:
    """What `latest` found: the newest good checkpoint, if any, and a sentence on each bad one before it."""

    checkpoint: Checkpoint | None
    damaged: tuple[str, ...] = ()


def save(
    root: Path,
    name: str,
    *,
    weights: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    meta: Mapping[str, Any],
) -> Path:
    """Write `root/<name>/`, replacing one of that name, and point `latest` at it; return its path.

    `weights`: one state_dict per file (`student`, `average`, ...). `state`: tensors, dicts, lists, tuples, ints,
    floats, strings, booleans and None, nested at will; TypeError for anything else. `meta` goes into the manifest
    as JSON. If anything fails, what was saved before stays, and `latest` points to it.
    """
    assert NAME.fullmatch(name), f"not a checkpoint name: {name!r}"
    root.mkdir(parents=True, exist_ok=True)
    tidy(root)
    prepared = partial(root / name)
    try:
        prepared.mkdir()
        _write(prepared, weights, state)
        manifest.write(prepared, 1 + max(map(manifest.sequence, _all(root)), default=0), meta)
        publish(prepared, root / name)
    except BaseException:
        shutil.rmtree(prepared, ignore_errors=True)
        raise
    note(root, LATEST, name)
    return root / name


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint. UserError when there is none, DamagedFile naming the file that is not as saved."""
    if not path.is_dir():
        raise UserError(f"There is no checkpoint {path}; name a directory that holds a {manifest.NAME}.")
    listed = manifest.verified(path)
    weights = {Path(name).stem: _read_weights(path / name) for name in listed["files"] if name.endswith(WEIGHTS)}
    if STATE not in listed["files"]:
        raise manifest.damaged(path / STATE, "is missing")
    return Checkpoint(path, weights, _read_state(path / STATE), listed)


def latest(root: Path) -> Found:
    """The checkpoint that `latest` names or, if that is damaged, the last saved good one. Changes nothing on disk.

    Raises DamagedFile when there are checkpoints and none is good.
    """
    damaged: list[str] = []
    try:
        pointed = noted(root, LATEST)
    except DamagedFile as error:
        pointed = None
        damaged.append(str(error))
    for path in _candidates(root, pointed):
        try:
            return Found(load(path), tuple(damaged))
        except (DamagedFile, UserError) as error:
            damaged.append(str(error))
    if damaged:
        raise DamagedFile(f"{root} holds no good checkpoint: {' '.join(damaged)}")
    return Found(None)


def newest_meta(root: Path) -> dict[str, Any]:
    """What the saver said of the checkpoint that `latest` names; empty if that cannot be read."""
    try:
        name = noted(root, LATEST)
        return dict(manifest.read(root / name)["meta"]) if name else {}
    except DamagedFile:
        return {}


def prune(root: Path, keep: Collection[str] = (), last: int = 2) -> None:
    """Delete checkpoints but the `last` saved ones, those named in `keep`, and those a pointer file names."""
    by_age = sorted((path for path in _all(root) if NAME.fullmatch(path.name)), key=manifest.sequence)
    pointers = [path.name for path in root.iterdir() if path.is_file() and NAME.fullmatch(path.name)]
    kept = {*keep, *(noted(root, label) for label in pointers)}
    for path in by_age[: max(0, len(by_age) - last)]:
        if path.name not in kept:
            remove(path)


def note(root: Path, label: str, name: str) -> None:
    """Point `label` ("best", "latest") at a checkpoint, by a one-line file."""
    assert NAME.fullmatch(label), f"not a label: {label!r}"
    write_atomic(root / label, name + "\n")


def noted(root: Path, label: str) -> str | None:
    """The checkpoint's name that `note` left, None if it did not. DamagedFile when the file holds no name."""
    path = root / label
    if not path.is_file():
        return None
    name = path.read_text(encoding="ascii", errors="replace").removesuffix("\n")
    if not NAME.fullmatch(name):
        raise DamagedFile(f"{path} does not hold a checkpoint's name; write one of {root}'s directories into it.")
    return name


def _write(folder: Path, weights: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
    for key, tensors in weights.items():
        save_weights(folder / f"{key}{WEIGHTS}", dict(tensors))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (folder / STATE).write_bytes(buffer.getbuffer())  # a full disk is an OSError here, an obscure one inside torch
    try:
        _read_state(folder / STATE)
    except DamagedFile as error:
        raise TypeError(f"a checkpoint's state holds something else than tensors and plain values: {error}") from error
    for path in folder.iterdir():
        sync(path)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors as saved, bit for bit: `read_weights`, made for foreign files, upcasts and refuses infinities."""
    try:
        return dict(load_file(path))
    except Exception as error:  # only a forged file gets here, its SHA-256 is right
        raise manifest.damaged(path, "is no safetensors file") from error


def _read_state(path: Path) -> dict[str, Any]:
    """The trainer's state; the restricted unpickler makes tensors and plain values and calls nothing else."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # forged bytes can raise anything
        what = "cannot be read without running code from it, or is no PyTorch file; it was not run"
        raise manifest.damaged(path, what) from error


def _all(root: Path) -> list[Path]:
    """All checkpoints, also one that a crash left stepped aside (see `publish`), but none half-written."""
    found = (path.parent for path in root.glob(f"*/{manifest.NAME}"))
    return [path for path in found if not path.name.startswith(".tmp-")]


def _candidates(root: Path, pointed: str | None) -> list[Path]:
    first = [root / pointed] if pointed else []
    others = sorted(_all(root), key=lambda path: (manifest.sequence(path), path.name), reverse=True)
    return first + [path for path in others if path not in first]
