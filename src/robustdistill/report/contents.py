"""What a report is made of: all that is known of one run, read and checked before anything is drawn."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from robustdistill.errors import DamagedFile
from robustdistill.report.tables import Table

Array = NDArray[Any]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A network by its accuracies in [0, 1]; `kind` is best or last (of this run), other (run) or teacher."""

    name: str
    clean: float
    robust: float
    kind: str


@dataclass(frozen=True)
class About:
    """An attack in words: a line on it, and the loss that it ascends."""

    summary: str = ""
    loss: str = ""


@dataclass(frozen=True)
class Examples:
    """K images and their adversarial twins `[K, C, H, W]` in [0, 1], labels `[K]`, and the logits on both."""

    x: Array
    x_adv: Array
    y: Array
    logits: Array
    logits_adv: Array


@dataclass(frozen=True)
class Contents:
    """One run. `events`, `result` and `judged` are what the run's directory holds, empty where a file is missing.

    `judged` is `evaluation.json`, `about` tells of its attacks by name, `points` are accuracies under the attack that
    selects the best epoch, `notes` are sentences to read before the numbers.
    """

    name: str
    path: str
    method: str
    student: str
    teachers: Sequence[str]
    data: str
    eps: float
    epochs: int
    select: str
    spec: str
    environment: Record
    classes: Sequence[str] = ()
    events: Sequence[Record] = ()
    result: Record = field(default_factory=dict)
    selection: Table | None = None
    judged: Record = field(default_factory=dict)
    about: Mapping[str, About] = field(default_factory=dict)
    points: Sequence[Point] = ()
    examples: Examples | None = None
    notes: Sequence[str] = ()

    def verdict(self, attack: str) -> Record | None:
        """The verdict under an attack, if `eval` gave one."""
        return next((v for v in self.verdicts if v["attack"] == attack), None)

    @property
    def verdicts(self) -> Sequence[Record]:
        """All verdicts of `eval`, `clean` first and `worst` last."""
        found: Sequence[Record] = self.judged.get("verdicts", ())
        return found

    @property
    def hardest(self) -> Record | None:
        """The verdict under all attacks together, or under the only one."""
        attacked = [v for v in self.verdicts if v["attack"] != "clean"]
        return self.verdict("worst") or min(attacked, key=lambda v: float(v["accuracy"]), default=None)


def read_examples(path: Path, sha256: str | None = None) -> Examples:
    """`examples.safetensors`. DamagedFile when it is not of this `sha256`, where that is known, or is cut, lacks a
    tensor, or its shapes do not fit together.
    """
    try:
        content = path.read_bytes() if path.is_file() else b""
        if sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("its SHA-256 is not that in evaluation.json")
        found = load(content)
        made = Examples(**{name: found[name] for name in Examples.__dataclass_fields__})
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedFile(f"{path} holds no example images ({error}); run `robustdistill eval` again") from None
    k, *image = made.x.shape
    fits = made.x_adv.shape == made.x.shape and len(image) == 3 and made.y.shape == (k,)
    numbers = all(array.dtype.kind in "fiu" and np.isfinite(array).all() for array in vars(made).values())
    fits = fits and numbers and made.y.dtype.kind in "iu"
    if not fits or made.logits.shape != made.logits_adv.shape or len(made.logits) != k or made.logits.ndim != 2:
        raise DamagedFile(f"the tensors of {path} do not fit together; run `robustdistill eval` again")
    return made


def softmax(logits: Array) -> Array:
    """Probabilities `[K, classes]` of logits `[K, classes]`, computed in float64."""
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
