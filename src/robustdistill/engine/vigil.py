"""Losses and weights that are not finite are noticed before anything is built on them.

The steps themselves are not watched: that would cost a synchronisation each. Where the host looks at the losses
anyway, it also asks whether every weight is finite. If not, the steps since it last looked are taken again from there,
one by one, up to the one at fault: all that a step draws is a function of its place, so it comes out as before.
"""

import math
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from robustdistill.engine.anchor import Anchor
from robustdistill.engine.autopsy import examined
from robustdistill.engine.job import Job, advance
from robustdistill.engine.state import State
from robustdistill.errors import Diverged
from robustdistill.events import Warned
from robustdistill.world import current


class Vigil:
    """Watches over the training of `state`. What was not finite from the start, such as a mask of -inf, may stay so."""

    def __init__(self, job: Job, state: State) -> None:
        self._job, self._state = job, state
        self._watched = [t for t in state.weights_and_momenta() if t.numel() and bool(t.isfinite().all())]
        self._anchor = Anchor(state)

    def begin(self) -> None:
        """An epoch begins or goes on: never back beyond this."""
        self._anchor.keep()

    def look(self, fetch: bool) -> Generator[Warned, None, float | None]:
        """Looks at what the steps since the last look did; afterwards the state is one without a step at fault.

        Tells of each step that is left out. With `fetch` the losses are added up, and the last one is returned.
        Raises `Diverged`, the state being that before the step at fault, if too many of them come in a row.
        """
        if self._sound():
            self._state.tally.row = 0
        else:
            yield from self._again()
        last = self._state.tally.fetch() if fetch else None
        self._anchor.keep()
        return last

    def _sound(self) -> bool:
        facts = [loss.double() for loss in self._state.tally.pending]
        facts += [n.double() for n in torch._foreach_norm(self._watched, ord=math.inf)]
        sound = not facts or bool(torch.stack(facts).isfinite().all())
        return not current().any(not sound)

    def _again(self) -> Iterator[Warned]:
        state, until, found = self._state, self._state.step, False
        self._anchor.back()
        for i, picks in enumerate(self._job.steps.batches.picks(state.epoch, state.step), state.step):
            if i == until:
                break
            advance(self._job, state, picks, i)
            if self._sound():
                state.tally.row = 0
            else:
                yield self._left_out(picks, i)
                found = True
            self._anchor.keep()
        if not found:
            yield Warned("a loss that was not finite was so no more when its step was taken again, and the run goes on")

    def _left_out(self, picks: Tensor, i: int) -> Warned:
        """Goes back to before step `i` and past it; raises `Diverged` if no more steps in a row may be left out."""
        job, state = self._job, self._state
        lost = state.tally.pending[-1]
        what = f"the loss is {float(lost)}" if not bool(lost.isfinite()) else "a gradient is not finite"
        self._anchor.back()
        where = f"at epoch {state.epoch + 1}, step {i + 1}"
        if state.tally.row >= job.skip:
            again = f" in {job.skip + 1} steps in a row" if job.skip else ""
            raise Diverged(
                f"{what} {where}{again}: lower --lr or check the teacher; what was saved before is kept",
                examined(job, state, picks, i),
            )
        state.step, state.tally.skipped, state.tally.row = i + 1, state.tally.skipped + 1, state.tally.row + 1
        return Warned(f"{what} {where}: the step is left out ({state.tally.row} in a row, {job.skip} may be)")
