"""What is kept of an evaluation: its parts while it goes, and in the end its record in a run's folder."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from robustdistill.data import cache
from robustdistill.earlier import earlier
from robustdistill.evaluation.verdict import Verdict
from robustdistill.judging import NONE, Case, Checks
from robustdistill.store import rundir, sealed
from robustdistill.store.atomic import write_atomic
from robustdistill.store.partial import Partial


def facts(case: Case, target: str, *, n: int | None, device: str) -> dict[str, Any]:
    """What the verdicts on `target` are of: data, images (`n`: how many were asked for), radius, seed, and where.

    Verdicts of one `fingerprint` can stand beside each other, and have a worst case.
    """
    where = {"target": target, "data": case.target.data, "n": len(case.y), "whole": n is None, "limit": n}
    return (
        where
        | {"eps": case.eps, "seed": case.seed, "device": device, "batch_size": case.batch_size}
        | {"fingerprint": case.fingerprint}
    )


def parts(case: Case) -> Partial | None:
    """Where the finished parts of this evaluation wait for its end, in the user's cache; None where that cannot be."""
    try:
        folder = cache.folder() / "evaluations" / case.fingerprint[:32]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    return Partial(folder)


def guarded(store: rundir.RunDir, facts: Mapping[str, Any], labels: Tensor) -> str:
    """Why verdicts of `facts` must not go into the run's folder; "" if they may (see `Earlier.guarded`)."""
    return earlier(store, labels).guarded(facts)


def add(
    store: rundir.RunDir,
    verdicts: Sequence[Verdict],
    facts: Mapping[str, Any],
    labels: Tensor,
    checks: Checks | None = None,
) -> list[Verdict]:
    """`keep`, beside what the run has of the same fingerprint. Returns all that it has then.

    An attack that was judged anew replaces its verdict; without new checks the earlier ones stay beside what stays.
    """
    found = earlier(store, labels)
    everything, kept = found.joined(verdicts, facts), found.kept(verdicts, facts)
    facts = {**facts, **({"whole": True, "limit": None} if found.alike(facts) and found.facts["whole"] else {})}
    if kept and not checks:
        sealed.write(found.path, record(everything, facts | found.checks(), None, kept))
    else:
        keep(store, everything, facts, checks, kept)
    return everything


def keep(
    store: rundir.RunDir,
    verdicts: Sequence[Verdict],
    facts: Mapping[str, Any],
    checks: Checks | None = None,
    kept: Mapping[str, Any] = NONE,
) -> Path:
    """Writes `evaluation.json` into a run directory, every verdict example by example, and the images for the eye.

    Replaces what is there. `kept`: records of verdicts, by attack, that are written as they are.
    """
    path, shown = store.path / rundir.EVALUATION, store.path / rundir.EXAMPLES
    more = {}
    if checks:
        content = save({name: tensor.contiguous() for name, tensor in checks.examples.items()})
        write_atomic(shown, content)
        more = {"examples_sha256": hashlib.sha256(content).hexdigest()}
    else:
        shown.unlink(missing_ok=True)  # those of another evaluation
    sealed.write(path, record(verdicts, facts, checks, kept) | more)
    return path


def record(
    verdicts: Sequence[Verdict], facts: Mapping[str, Any], checks: Checks | None, kept: Mapping[str, Any] = NONE
) -> dict[str, Any]:
    """An evaluation as JSON values."""
    told = [kept.get(v.attack) or v.plain() for v in verdicts]
    return {**facts, **(checks.plain() if checks else {}), "verdicts": told}
