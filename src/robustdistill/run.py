"""A run from spec to result: prepared, trained, judged and kept; the only place where all of it meets."""

import copy
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from robustdistill import assemble
from robustdistill.engine import loop
from robustdistill.engine.loop import Rest
from robustdistill.errors import Diverged, Stopped, UserError
from robustdistill.events import Evaluated, Event, Finished, Started, Warned
from robustdistill.prepare import Modules, Run, prepare
from robustdistill.provenance import environment_of, execution_of, moved, restored
from robustdistill.registry import Registry, default_registry
from robustdistill.resolve import Layer, resolve
from robustdistill.saving import Keeper, Stop, best_so_far, latched
from robustdistill.selection import accuracies, trial
from robustdistill.spec import RunSpec, load_layer
from robustdistill.store import rundir
from robustdistill.stored import check_origin, find_checkpoint, run_of, stored_spec
from robustdistill.surroundings import driven, in_order
from robustdistill.types import Watch, Weights
from robustdistill.world import current, join, shared


def as_spec(spec: RunSpec | Layer | str | Path, registry: Registry | None = None) -> RunSpec:
    """A spec from a spec, a layer of one, or a TOML file."""
    if isinstance(spec, RunSpec):
        return spec
    layer = load_layer(Path(spec)) if isinstance(spec, str | Path) else spec
    return resolve([layer], registry or default_registry())


def train(
    spec: RunSpec | Layer | str | Path,
    *,
    student: nn.Module | None = None,
    teacher: Modules = None,
    out: str | Path | None = None,
    registry: Registry | None = None,
    stop: Stop = lambda: False,
) -> Iterator[Event]:
    """Trains a student; iterate to drive it. Yields events, the last one `Finished` with the result.

    `student` and `teacher` (a module, or modules by role) replace those that the spec names; a given student
    is trained in place, given teachers are frozen, all are moved to the run's device. `out` is a new run
    directory; without it nothing is written. As soon as `stop()` says so, asked after every step, the run is saved and
    ends with `Stopped`. Processes that torchrun started share each batch; the first of them writes. Raises UserError
    before anything is written if the run cannot work.
    """
    registry = registry or default_registry()
    spec = join().together(lambda: as_spec(spec, registry))
    yield from driven(_train(spec, registry, student, teacher, out, latched(stop)), spec.deterministic)


def _train(
    spec: RunSpec, registry: Registry, student: nn.Module | None, teacher: Modules, out: str | Path | None, stop: Stop
) -> Generator[Event, None, None]:
    here, out = current(), out if current().first else None
    here.together(lambda: rundir.refuse_occupied(Path(out)) if out is not None else None)
    run = here.together(lambda: prepare(spec, registry, student=student, teacher=teacher, watch=_watch(stop)))
    _alike(run)

    def made() -> rundir.RunDir | None:
        return rundir.create(Path(out), run.spec.to_toml(), environment_of(run)) if out is not None else None

    with _locked(here.together(made)) as store:
        yield from _go(run, store, stop)


def resume(
    path: str | Path, *, registry: Registry | None = None, stop: Stop = lambda: False, **modules: Any
) -> Iterator[Event]:
    """Goes on with the run in directory `path` (or with one of its checkpoints), as if it had never stopped.

    From a run directory the newest good checkpoint is taken, with a warning on each damaged one; a checkpoint
    that is named itself must be whole (DamagedFile). `stop` and `modules` as in `train`.
    """
    store = join().together(lambda: run_of(Path(path)))
    spec = current().together(lambda: stored_spec(store))
    yield from driven(_resume(Path(path), store, spec, registry, latched(stop), modules), spec.deterministic)


def _resume(
    path: Path,
    store: rundir.RunDir,
    spec: RunSpec,
    registry: Registry | None,
    stop: Stop,
    modules: Mapping[str, Any],
) -> Generator[Event, None, None]:
    here = current()
    with _locked(store if here.first else None) as kept:
        run = here.together(lambda: prepare(spec, registry or default_registry(), watch=_watch(stop), **modules))
        _alike(run)
        found = here.together(lambda: find_checkpoint(path))
        yield from map(Warned, (*found.damaged, *moved(store.read_environment(), environment_of(run))))
        if (whole := found.checkpoint) is not None:
            yield from map(Warned, here.together(lambda: restored(run, store, whole)))
        elif kept:
            kept.truncate_events(0)
        best, sentences = here.together(lambda: best_so_far(store, run))
        yield from map(Warned, sentences)
        yield from _go(run, kept, stop, best)


@contextmanager
def _locked(store: rundir.RunDir | None) -> Iterator[rundir.RunDir | None]:
    """The run directory, in the hands of this process; if another one has it, all of ours hear of it."""
    with ExitStack() as stack:
        current().together(lambda: stack.enter_context(store.locked()) if store else None)
        yield store


def _alike(run: Run) -> None:
    """UserError unless all processes were given the same spec and the same teachers."""
    told = current().gather(lambda: (run.spec.hash(), dict(run.hashes)))
    if any(other != told[0] for other in told):
        raise shared(UserError("the processes of the run were given different specs or teachers; start all alike"))


def _go(run: Run, store: rundir.RunDir | None, stop: Stop, best: Weights | None = None) -> Iterator[Event]:
    """Trains, keeps what happens, and ends with the result. The caller holds the run directory's lock."""
    keeper = Keeper(run, store, stop)
    try:
        for event in _events(run, keeper):
            if isinstance(event, Evaluated) and event.best:
                best = _copy(run.state.judged)
            yield event
        result = _result(run, best or _copy(run.state.judged), _watch(stop))
    except Stopped:
        keeper.save()
        raise keeper.stopped() from None
    except Diverged as error:
        raise keeper.diverged(error) from error
    current().together(lambda: store.write_result(result) if store else None)
    yield Finished(result, str(store.path) if store else "")


def _events(run: Run, keeper: Keeper) -> Iterator[Event]:
    """What happens until the last epoch is judged, each event logged before it is told; saves where that is due."""
    for event in _told(run, keeper):
        if isinstance(event, Rest):
            _watch(keeper.stop)(event)
        else:
            if keeper.store:
                keeper.store.append_event(event)
            yield event
        if isinstance(event, Evaluated | Rest):
            saved = keeper.save(isinstance(event, Evaluated) and event.best)
            if saved:
                yield saved


def _watch(stop: Stop) -> Callable[[object], None]:
    """Raises `Stopped` as soon as the run is asked to stop."""

    def look(_: object) -> None:
        if stop():
            raise Stopped("asked to stop")

    return look


def _told(run: Run, keeper: Keeper) -> Iterator[Event | Rest]:
    spec, state = run.spec, run.state
    parameters = sum(p.numel() for p in state.student.parameters())
    yield Started(
        method=spec.method,
        epochs=spec.epochs,
        steps_per_epoch=len(run.job.steps.batches),
        start_epoch=state.epoch,
        start_step=state.step,
        device=str(run.device),
        execution=str(run.execution),
        parameters=parameters,
        reads=run.reads.flat(),
        flops=run.work.total,
    )
    if not (state.epoch or state.step):  # else they were told when the run began
        yield from map(Warned, run.warnings)
    yield from loop.train(run.job, state, keeper.due)


def _copy(network: nn.Module) -> Weights:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def _result(run: Run, best: Weights, watch: Watch) -> dict[str, Any]:
    """What `result.json` holds. Accuracies in [0, 1]; `test` is judged once, after training."""
    spec, state = run.spec, run.state
    last, best_record = state.history[-1], state.best or state.history[-1]
    return {
        "method": spec.method,
        "inner": spec.inner.name,
        "outer": spec.outer.name,
        "with": [m.name for m in spec.modifiers],
        "student": spec.student.name,
        "teachers": {role: t.name for role, t in spec.teachers.items()},
        "data": spec.data.name,
        "eps": spec.eps,
        "seed": spec.seed,
        "spec_hash": spec.hash(),
        "selection": spec.select.split,
        "execution": execution_of(run),
        "last": {**last, "test": _test(run, _copy(state.judged), watch)},
        "best": {**best_record, "test": _test(run, best, watch)},
        "history": state.history,
    }


def _test(run: Run, weights: Weights, watch: Watch) -> dict[str, float]:
    network = copy.deepcopy(run.state.judged)
    network.load_state_dict(weights)
    names, split = ("clean", run.spec.select.attack), trial(run.spec, run.splits.test)
    return {"n": len(split), **accuracies(network, split, names, run.spec, run.registry, run.device, watch=watch)}


@in_order()
def load(path: str | Path, which: str = "best", *, registry: Registry | None = None) -> nn.Module:
    """The trained student of a run directory or of one of its checkpoints, on the CPU, in eval mode.

    `which`, for a run directory: best, latest, or a checkpoint's name. Raises UserError when there is none,
    DamagedFile when a byte of it changed.
    """
    found = find_checkpoint(Path(path), which)
    if found.checkpoint is None:
        raise UserError(f"{path} has no checkpoint yet; train at least one epoch")
    spec, registry = stored_spec(run_of(Path(path))), registry or default_registry()
    check_origin(found.checkpoint, spec)
    network = assemble.build_student(spec, registry.dataset(spec.data.name, spec.data.dir), registry)
    try:
        network.load_state_dict(found.checkpoint.judged)
    except RuntimeError as error:
        raise UserError(f"the weights of {path} do not fit student {spec.student.name!r}: {error}") from error
    return network.eval()
