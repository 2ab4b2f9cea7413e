"""A study's workers as SLURM jobs, submitted by the package submitit."""

import sys
from collections.abc import Sequence
from typing import Any

from robustdistill.cli.drive import quoted
from robustdistill.errors import UserError
from robustdistill.spec import set_layer
from robustdistill.study.folder import Folder

CLUSTER = "cluster"  # the option that names another executor of submitit's, such as local
DEFAULTS = {"name": "robustdistill", "timeout_min": 24 * 60}


def submit(folder: Folder, command: Sequence[str], workers: int, options: str) -> list[Any]:
    """Submits so many jobs that each run `command`, with `options` of submitit's ("partition=gpu,timeout_min=600").

    One job is one worker: ended by its time limit it saves its run, and the next one, or the same command again, goes
    on. Returns the jobs. UserError where submitit is not installed, or does not know an option.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError("--slurm needs the package submitit: pip install submitit") from None
    given = set_layer(part for part in options.split(",") if part.strip())
    cluster = given.pop(CLUSTER, None)
    try:
        executor = submitit.AutoExecutor(folder=folder.logs / "slurm", cluster=cluster)
        executor.update_parameters(**{**DEFAULTS, **given})
    except Exception as error:  # submitit names the option, or the program that it lacks
        raise UserError(f"--slurm {options!r}: {error}") from error
    run = submitit.helpers.CommandFunction(list(command), verbose=False)
    with executor.batch():
        jobs = [executor.submit(run) for _ in range(workers)]
    ids = ", ".join(str(job.job_id) for job in jobs)
    print(
        f"submitted {len(jobs)} workers (jobs {ids}); see: robustdistill study status {quoted(folder.path)}",
        file=sys.stderr,
    )
    return jobs
