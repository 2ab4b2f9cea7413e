"""What an epoch adds up to, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Tally:
    """Of the epoch that is trained: `total` of the losses fetched, the `pending` ones still on the device, and the
    sizes of the loss's terms at its beginning.

    `skipped` steps were left out, the last `row` of them one after the other. `told`: the epoch is trained, and that
    was said; only the judging is left.
    """

    total: float = 0.0
    pending: list[Tensor] = field(default_factory=list)
    terms: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    row: int = 0
    told: bool = False

    def fetch(self) -> float | None:
        """Brings the pending losses over, the one place where the host waits; the last of them, if there is any."""
        if not self.pending:
            return None
        window = torch.stack(self.pending).double().cpu()
        self.pending.clear()
        self.total += float(window.sum())
        return float(window[-1])

    def mean(self, steps: int) -> float:
        """The mean loss of an epoch of `steps` steps, all fetched."""
        return self.total / max(1, steps - self.skipped)

    def record(self) -> dict[str, Any]:
        """As tensors and plain values. Pending losses stay apart: summed up later, as in an unbroken run."""
        return vars(self) | {"pending": [loss.detach().cpu() for loss in self.pending]}

    @classmethod
    def of(cls, record: Mapping[str, Any], device: torch.device) -> "Tally":
        """What `record` told, on `device`."""
        return cls(**{**record, "pending": [loss.to(device) for loss in record["pending"]]})
