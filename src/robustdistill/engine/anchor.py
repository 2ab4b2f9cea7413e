"""A place to go back to: copies, on the device, of all that a step changes."""

import torch
from torch import Tensor

from robustdistill.engine.state import State


class Anchor:
    """Copies of the state's tensors and counters, taken anew by `keep`; `back` puts them in place, in place."""

    def __init__(self, state: State) -> None:
        self._state, self._live = state, state.tensors()
        self._kept = [t.clone() for t in self._live]
        self.keep()

    @torch.no_grad()
    def keep(self) -> None:
        """From now on, this is where `back` goes."""
        _copy(self._kept, self._live)
        state = self._state
        self._step, self._pending = state.step, list(state.tally.pending)
        self._averaged = state.average.count if state.average is not None else 0

    @torch.no_grad()
    def back(self) -> None:
        """The state as it was kept."""
        _copy(self._live, self._kept)
        state = self._state
        state.step, state.tally.pending[:] = self._step, self._pending
        if state.average is not None:
            state.average.count = self._averaged


def _copy(to: list[Tensor], of: list[Tensor]) -> None:
    if to:
        torch._foreach_copy_(to, of)
