"""What a run tells while it goes: the engine yields these, the command line shows them, the store keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Started:
    """The run is set up. After a resume it starts at `start_epoch` and, of that epoch, `start_step`.

    `reads` counts forwards of a step (see `Reads`). `execution` says how the steps are taken: mode and number format.
    `flops` are the operations of all steps.
    """

    method: str
    epochs: int
    steps_per_epoch: int
    start_epoch: int
    device: str
    parameters: int
    reads: Mapping[str, int] = field(default_factory=dict)
    execution: str = ""
    flops: float = 0.0
    start_step: int = 0


@dataclass(frozen=True)
class Stepped:
    """Some steps were taken: `loss` is the last one's, `images_per_second` over those since the last event."""

    epoch: int
    step: int
    steps: int
    loss: float
    lr: float
    images_per_second: float


@dataclass(frozen=True)
class Trained:
    """An epoch of training ended; `judged` tells that an `Evaluated` follows. `loss` is the epoch's mean.

    `terms` holds each noted term of the outer loss, measured on the epoch's first batch: its mean value;
    `gradients` the norm of its parameter gradient relative to the first term's.
    """

    epoch: int
    loss: float
    lr: float
    seconds: float
    judged: bool
    terms: Mapping[str, float] = field(default_factory=dict)
    gradients: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """The student was judged on `split` after an epoch (accuracies in [0, 1]); the rest is as in `Trained`."""

    epoch: int
    split: str
    clean: float
    robust: float
    attack: str
    loss: float
    lr: float
    seconds: float
    terms: Mapping[str, float] = field(default_factory=dict)
    gradients: Mapping[str, float] = field(default_factory=dict)
    best: bool = False


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written: `epoch` epochs are done and `step` steps of the next one."""

    epoch: int
    path: str
    best: bool = False
    step: int = 0


@dataclass(frozen=True)
class Warned:
    """Something a user should know; the run goes on."""

    message: str


@dataclass(frozen=True)
class Finished:
    """The run ended. `result` is what `result.json` holds."""

    result: Mapping[str, object]
    path: str = ""


Event = Started | Stepped | Trained | Evaluated | Saved | Warned | Finished
