"""What is kept of an evaluation: its parts while it goes, and in the end its record in a run's folder."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from robustdistill.data import cache
from robustdistill.evaluation.verdict import Verdict
from robustdistill.judging import Case, Checks
from robustdistill.store import rundir, sealed
from robustdistill.store.atomic import write_atomic
from robustdistill.store.partial import Partial


def facts(case: Case, target: str, *, n: int | None, device: str) -> dict[str, Any]:
    """What the verdicts on `target` are of: data, images (`n`: how many were asked for), radius, seed, and where."""
    where = {"target": target, "data": case.target.data, "n": len(case.y), "whole": n is None, "limit": n}
    return where | {"eps": case.eps, "seed": case.seed, "device": device, "batch_size": case.batch_size}


def parts(case: Case) -> Partial | None:
    """Where the finished parts of this evaluation wait for its end, in the user's cache; None where that cannot be."""
    try:
        folder = cache.folder() / "evaluations" / case.fingerprint()[:32]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    return Partial(folder)


def keep(
    store: rundir.RunDir, verdicts: Sequence[Verdict], facts: Mapping[str, Any], checks: Checks | None = None
) -> Path:
    """Writes `evaluation.json` into a run directory, every verdict example by example, and the images for the eye."""
    path, shown = store.path / rundir.EVALUATION, store.path / rundir.EXAMPLES
    more = {}
    if checks:
        content = save({name: tensor.contiguous() for name, tensor in checks.examples.items()})
        write_atomic(shown, content)
        more = {"examples_sha256": hashlib.sha256(content).hexdigest()}
    else:
        shown.unlink(missing_ok=True)  # those of another evaluation
    sealed.write(path, record(verdicts, facts, checks) | more)
    return path


def record(verdicts: Sequence[Verdict], facts: Mapping[str, Any], checks: Checks | None) -> dict[str, Any]:
    """An evaluation as JSON values."""
    return {**facts, **(checks.plain() if checks else {}), "verdicts": [v.plain() for v in verdicts]}
