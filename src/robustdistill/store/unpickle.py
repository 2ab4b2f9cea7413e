"""The process that `foreign` starts: reads a file of weights by running the code in it, and keeps the tensors alone."""

import io
import itertools
import pickle
import pickletools
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from robustdistill.store.formats import is_archive
from robustdistill.store.weights import contents, save_weights, unwrap

DEPTH = 8  # of containers within containers: deeper, or in a circle, nobody puts weights


def main(arguments: Sequence[str]) -> NoReturn:
    """`FILE OUT [FOLDER ...]`: the tensors of FILE go to OUT as safetensors; modules are looked for in each FOLDER too.

    Exits with 0, or with 1 and the reason in the last line of stderr.
    """
    file, out, *folders = arguments
    sys.path[:0] = folders  # what is imported already stays what it is
    warnings.simplefilter("ignore")
    try:
        tensors = extract(load(Path(file)))
        save_weights(Path(out), tensors)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        sys.exit(f"{type(error).__name__}: {first}")
    sys.exit(0)


def load(path: Path) -> object:
    """What the file holds, by running what it says: `torch.save`'s formats, TorchScript or a plain pickle."""
    with path.open("rb") as file:
        if is_archive(file):
            return torch.load(file, map_location="cpu", weights_only=False)
        if _has_magic(file):  # read from memory: from a file, torch would first try whether it is a tar archive too
            return torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=False)
        return pickle.load(file, encoding="latin1")  # as Python 2's arrays need


def _has_magic(file: IO[bytes]) -> bool:
    """Whether it begins as `torch.save` did before it wrote zip archives. Told without running anything."""
    try:
        start = [argument for _, argument, _ in itertools.islice(pickletools.genops(file), 2)]
    except ValueError:
        start = []
    file.seek(0)
    return torch.serialization.MAGIC_NUMBER in start


def extract(content: object) -> dict[str, Tensor]:
    """The state dict in `content`: of a module, of arrays, in wrappers. Raises ValueError if there is none."""
    found = unwrap(_plain(content, DEPTH))
    named = found.items() if isinstance(found, Mapping) else ()
    tensors = {k: v.detach() for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"no weights (found: {contents(found)})")
    return tensors


def _plain(value: object, depth: int) -> object:
    """Modules as their state dicts and arrays as tensors, also inside mappings."""
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if isinstance(value, Mapping) and depth:
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    return value
