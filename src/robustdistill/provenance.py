"""Where a run computes and with what; that it goes on where, with what and from what it began."""

from collections.abc import Mapping
from typing import Any

from robustdistill.errors import DamagedFile, RobustDistillError, UserError
from robustdistill.prepare import Run
from robustdistill.store import checkpoint, eventlog, rundir
from robustdistill.store.environment import data_sha256, environment
from robustdistill.stored import check_origin
from robustdistill.world import current


def restored(run: Run, store: rundir.RunDir, found: checkpoint.Checkpoint) -> list[str]:
    """Puts a checkpoint's state in place and the event log where it was; sentences on what is not as it was."""
    check_origin(found, run.spec)
    log = store.path / rundir.EVENTS
    altered = eventlog.altered(log, found.meta.get("events"))
    try:
        same_teachers(run, found.meta["teachers"])
        run.state.restore(found.weights, found.state)
        if current().first:
            store.truncate_events(found.state["events"])
    except (RobustDistillError, OSError, MemoryError):
        raise
    except Exception as error:  # its SHA-256 is right: written by another version, or forged
        raise DamagedFile(f"{found.path} does not hold the state of this run: {error}") from error
    return [f"{log} is not as this run wrote it: what it tells of the epochs so far is not sure"] if altered else []


def same_teachers(run: Run, hashes: Mapping[str, str]) -> None:
    """UserError if a teacher's file is not the one with the sha256 in `hashes`, by role."""
    for role, sha in hashes.items():
        if run.hashes.get(role, sha) != sha:
            name = run.spec.teachers[role].name
            raise UserError(
                f"teacher {name!r} is not the file that this run began with: its sha256 differs; restore it"
            )


def moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences if the run does not go on where and with what it began: it is then no longer equal to the bit."""
    keys = ("torch", "device", "device_name", "threads", "mode", "precision", "processes")
    changed = [f"{k} {before[k]} -> {now[k]}" for k in keys if k in before and before[k] != now[k]]
    found = [f"the run goes on elsewhere, so not bit for bit: {', '.join(changed)}"] if changed else []
    if before.get("data_sha256", now["data_sha256"]) != now["data_sha256"]:
        found.append("the images are not those that the run began with: their sha256 differs")
    return found


def environment_of(run: Run) -> dict[str, Any]:
    """What `environment.json` holds of a run."""
    plugins = [p.origin for p in run.registry.plugins if not p.error]
    what = {"data_sha256": data_sha256(run.splits), "spec_hash": run.spec.hash()}
    return environment(run.device, plugins) | execution_of(run) | what


def execution_of(run: Run) -> dict[str, str | int | bool]:
    """Mode and number format; how many processes shared each batch, and whether BatchNorm saw all of it."""
    how = {"mode": run.execution.mode, "precision": run.execution.precision}
    return how | {"processes": current().size, "sync_bn": run.spec.sync_bn}
