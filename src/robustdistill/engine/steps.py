"""The steps of a run, taken one by one in its mode; what cannot be compiled or recorded is taken the slower way."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from robustdistill.engine.batches import Batch, Batches
from robustdistill.engine.forwards import Compiler
from robustdistill.engine.step import MinMax, step
from robustdistill.errors import ProcessesApart
from robustdistill.logits import Clock, Logits, Networks, Reductions
from robustdistill.recording import Recorder, Recording, changes, first_line, marks
from robustdistill.world import current

WARM_STEPS = 3  # a step of every kind has run before one is recorded: kernels chosen, optimiser state allocated


@dataclass
class Steps:
    """Takes the steps of a run. `recorder` is there in mode graph only, and gone when recording has failed.

    `seed(what, epoch, step)` is the seed of one place in the run, `seeded(epoch, step)` a context in which torch's
    global generators start there too. Several processes have the draws of `common` in common, and each its own of
    `start`; one alone has `start`. A batch that is not full is never recorded. `notes` are sentences for the
    user on what is done otherwise than asked.
    """

    game: MinMax
    student: nn.Module
    optimizer: torch.optim.Optimizer
    networks: Networks
    batches: Batches
    compiler: Compiler
    clock: Clock
    start: Generator
    seed: Callable[[str, int, int], int]
    seeded: Callable[[int, int], AbstractContextManager[None]]
    recorder: Recorder | None = None
    common: Generator | None = None
    notes: list[str] = field(default_factory=list)
    _taken: int = 0
    _recording: Recording | None = None
    _picks: Tensor | None = None
    _frozen: dict[str, object] = field(default_factory=dict)

    def begin(self, epoch: int) -> None:
        """Sets the clock. A recording that froze what has changed since (a stage of the method) is made anew."""
        self.clock.epoch.fill_(epoch)
        if self._recording and changes(self._frozen, self._marks()):
            self._recording, self._taken = None, WARM_STEPS - 1

    def take(self, picks: Tensor, epoch: int, i: int) -> Tensor:
        """Step `i` of `epoch`, on the batch of `picks`. Returns the outer loss, a scalar on the device."""
        self._reseed(self.start, self.common, epoch, i)
        with self.seeded(epoch, i):
            if picks.shape[-1] != self.batches.batch_size:
                return self._plain(picks)
            if self._recording:
                return self._replayed(self._recording, picks)
            if self.recorder and self._taken >= WARM_STEPS:
                return self._recorded(self.recorder, picks, epoch, i)
            self._taken += 1
            return self._tried(picks, epoch, i)

    def beside(
        self, picks: Tensor, epoch: int, i: int, networks: Networks, clock: Clock
    ) -> tuple[Batch, Logits, Generator]:
        """Step `i` of `epoch` as it begins, made beside the run: its batch, seen by `networks`, and its noise."""
        start, common = Generator(picks.device), Generator(picks.device) if self.common else None
        self._reseed(start, common, epoch, i)
        batch = self.batches.batch(picks)
        return batch, _logits(batch, picks.shape[-1], networks, clock, common), start

    def _plain(self, picks: Tensor) -> Tensor:
        z = _logits(self.batches.batch(picks), picks.shape[-1], self.networks, self.clock, self.common)
        return step(self.game, self.student, z, self.optimizer, self.start)

    def _reseed(self, start: Generator, common: Generator | None, epoch: int, i: int) -> None:
        own = f"start of process {current().rank}" if common else "start"
        start.manual_seed(self.seed(own, epoch, i))
        if common:
            common.manual_seed(self.seed("start", epoch, i))

    # ---- compiled ---------------------------------------------------------------------------------------
    def _tried(self, picks: Tensor, epoch: int, i: int) -> Tensor:
        """A step of a mode that has just begun: if the compiled networks fail, taken again by the plain ones."""
        if not self.compiler.enabled or self._taken > 1:
            return self._warm(picks)
        with _restorable(self.student, self.game.units) as restore:
            try:
                return self._warm(picks)
            except (torch.OutOfMemoryError, ProcessesApart):
                raise
            except Exception as error:  # if it is not the compiler's, the plain networks raise it again
                why = first_line(error)
                restore()
        self.compiler.enabled = False
        self._reseed(self.start, self.common, epoch, i)
        loss = self._warm(picks)
        self.notes.append(f"the networks cannot be compiled and run as they are: {why}")
        return loss

    # ---- recorded ---------------------------------------------------------------------------------------
    def _warm(self, picks: Tensor) -> Tensor:
        if not self.recorder:
            return self._plain(picks)
        before = self._marks()
        with self.recorder.warm():
            loss = self._plain(picks)
        moved = changes(before, self._marks())
        if moved:
            self._give_up(
                f"a step changes {', '.join(moved)}, which a recorded step would freeze; state that changes in "
                "a step belongs in a buffer and is updated in place (self.state.copy_(...))"
            )
        return loss

    def _recorded(self, recorder: Recorder, picks: Tensor, epoch: int, i: int) -> Tensor:
        self._picks = picks.clone()
        self._frozen, static = self._marks(), self._picks
        with _restorable(self.student, self.game.units) as restore:
            try:
                self._recording = recorder.record(lambda: self._plain(static), [self.start])
                return self._recording.out.clone()
            except Exception as error:
                restore()
                self._give_up(f"the step cannot be recorded: {first_line(error)}")
        self.start = Generator(self.start.device)  # the old one may still believe that it is being recorded
        self.start.manual_seed(self.seed("start", epoch, i))
        return self._plain(picks)

    def _replayed(self, recording: Recording, picks: Tensor) -> Tensor:
        assert self._picks is not None
        self._picks.copy_(picks)
        recording.replay()
        return recording.out.clone()

    def _give_up(self, why: str) -> None:
        instead = "compile" if self.compiler.enabled else "eager"
        self.notes.append(f"mode graph: {why}. The run goes on in mode {instead}")
        self.recorder = None

    def _marks(self) -> dict[str, object]:
        return marks(self.student, self.game.units)


def _logits(batch: Batch, n: int, networks: Networks, clock: Clock, common: Generator | None) -> Logits:
    """`batch`, this process' part of the `n` images of a step; `common` is there if others have the rest."""
    if common is None:
        return Logits(batch.x, batch.y, networks, clock=clock)
    here = current()
    over_all = Reductions(
        here.mean, here.min, here.total, drawn=lambda draw, _, __: draw(n, common)[here.part(n)], size=lambda _: n
    )
    return Logits(batch.x, batch.y, networks, clock=clock, reductions=over_all)


@contextmanager
def _restorable(*modules: nn.Module) -> Iterator[Callable[[], None]]:
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    before = [t.detach().clone() for t in tensors]

    @torch.no_grad()
    def restore() -> None:
        for t, kept in zip(tensors, before, strict=True):
            t.copy_(kept)

    yield restore
