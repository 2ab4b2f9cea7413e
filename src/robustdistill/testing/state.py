"""State of objectives and modifiers: changed in place, kept in checkpoints, copied."""

import copy
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustdistill.recording import changes, marks
from robustdistill.testing.checks import hold


def moves_in_place(what: str, unit: nn.Module, step: Callable[[int], object]) -> None:
    """AssertionError if `step(0)`, `step(1)` or `step(2)` changes anything of the unit otherwise than in place."""
    moved = []
    for i in range(3):  # one by one: after two, a tensor bound anew may lie where the first one lay
        before = marks(unit)
        step(i)
        moved += changes(before, marks(unit))
    hold(
        not moved,
        f"a step of {what} changes {', '.join(dict.fromkeys(moved))}, which a recorded step would freeze; state that "
        "changes in a step is a registered buffer, updated in place (self.state.copy_(...))",
    )


def keeps_its_state(
    what: str, used: nn.Module, fresh: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor]
) -> None:
    """AssertionError if a used unit cannot be copied, saved and loaded into a fresh one that goes on the same."""
    loss(used)
    if callable(hook := getattr(used, "end_epoch", None)):
        hook()
    try:
        copied = copy.deepcopy(used)
    except Exception as error:
        raise AssertionError(f"{what} cannot be copied (copy.deepcopy): {error}") from error
    file, loaded = io.BytesIO(), fresh()
    torch.save(used.state_dict(), file)
    file.seek(0)
    try:
        loaded.load_state_dict(torch.load(file, weights_only=True))
    except Exception as error:
        raise AssertionError(f"the state of {what} does not load into a fresh one: {error}") from error
    want = loss(used)
    for how, other in (("a copy", copied), ("a fresh one that loaded its state", loaded)):
        hold(
            torch.equal(loss(other), want),
            f"{how} of {what} goes on otherwise: some of its state is not in a registered buffer or parameter",
        )
