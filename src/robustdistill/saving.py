"""When a run is saved, and under which name: after judged epochs, every few minutes, and when it is asked to stop."""

import time
from collections.abc import Callable

from robustdistill.errors import Diverged, RobustDistillError, Stopped
from robustdistill.events import Saved
from robustdistill.prepare import Run
from robustdistill.store import checkpoint, rundir
from robustdistill.store.atomic import write_atomic
from robustdistill.store.environment import version
from robustdistill.store.plain import dumps
from robustdistill.types import Weights
from robustdistill.world import current

Stop = Callable[[], bool]
NONFINITE = "nonfinite.json"


def latched(stop: Stop) -> Stop:
    """`stop`, which once it has said so says so for good: what asks to save asks first, and what stops asks after."""
    said = False

    def asked() -> bool:
        nonlocal said
        said = said or stop()
        return said

    return asked


class Keeper:
    """Saves `run` into `store` (None: nowhere). `stop()` says whether this process is asked to stop.

    Several processes do as one of them is asked, after the same step; only the first has a store.
    """

    def __init__(self, run: Run, store: rundir.RunDir | None, stop: Stop) -> None:
        self.run, self.store, self._asked = run, store, stop
        self.stop = latched(lambda: current().any(stop()))
        self._saved, self._place = time.monotonic(), _place(run)

    def due(self) -> bool:
        """Whether to save at the next step: asked to stop, or the last checkpoint is `save_minutes` old."""
        late = time.monotonic() - self._saved >= 60 * self.run.spec.save_minutes
        return current().any(self._asked() or (self.store is not None and late))

    def save(self, best: bool = False) -> Saved | None:
        """A checkpoint of where the run stands; None if that is on disk already, or nothing is to be written."""
        store = self.store
        if _place(self.run) == self._place:
            return None
        path = current().together(lambda: _save(self.run, store, best) if store else "")
        self._saved, self._place = time.monotonic(), _place(self.run)
        return Saved(self.run.state.epoch, path, best, self.run.state.step) if store else None

    def stopped(self) -> Stopped:
        """The error that ends a run which was asked to stop, and is saved."""
        epoch, step = _place(self.run)
        kept = "it is saved" if self.store else "nothing was to be written"
        return Stopped(f"stopped after {epoch} epochs and {step} steps; {kept}")

    def diverged(self, error: Diverged) -> Diverged:
        """`error` with the place of its record, which is written beside the run's other files."""
        if self.store is None or not error.record:
            return error
        path = self.store.path / NONFINITE
        write_atomic(path, dumps(error.record))
        return Diverged(f"{error}; the examples and terms of that step are in {path}", error.record)


def best_so_far(store: rundir.RunDir, run: Run) -> tuple[Weights | None, list[str]]:
    """The best weights of the epochs done; if their checkpoint is damaged, a sentence, and best begins anew."""
    if not run.state.best:
        return None, []
    name = name_of(run.state.best["epoch"] + 1)
    try:
        weights = checkpoint.load(store.checkpoints / name).judged
    except RobustDistillError as error:
        run.state.best = {}
        return None, [f"the best epoch so far cannot be kept: {error}"]
    if current().first:
        checkpoint.note(store.checkpoints, "best", name)
    return weights, []


def name_of(epochs: int, step: int = 0) -> str:
    """A checkpoint's name: so many epochs done, and steps of the next one."""
    return f"epoch-{epochs:04d}" + (f"-step-{step:06d}" if step else "")


def _place(run: Run) -> tuple[int, int]:
    return run.state.epoch, run.state.step


def _save(run: Run, store: rundir.RunDir, best: bool) -> str:
    name = name_of(*_place(run))
    record = run.state.record() | {"events": store.events_offset()}
    meta = {
        "epoch": run.state.epoch,
        "step": run.state.step,
        "spec_hash": run.spec.hash(),
        "judged": run.state.judged_file,
        "teachers": dict(run.hashes),
        "events": store.events_state(),
        "versions": {package: version(package) for package in ("robustdistill", "torch")},
    }
    path = checkpoint.save(store.checkpoints, name, weights=run.state.weights(), state=record, meta=meta)
    if best:
        checkpoint.note(store.checkpoints, "best", name)
        for file in (rundir.EVALUATION, rundir.EXAMPLES, rundir.RESULT):  # what they tell of is no longer the best
            (store.path / file).unlink(missing_ok=True)
    checkpoint.prune(store.checkpoints)
    return str(path)
