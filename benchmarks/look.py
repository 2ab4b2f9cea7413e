"""What it costs a run to look whether losses and weights are finite: seconds an epoch with and without, alternating.

    python benchmarks/look.py [--student NAME] [--data NAME] [--data-dir DIR] [--device NAME] [--batches N] [--rounds N]

The look is one norm of each tensor of weights, one value brought to the host, and a copy of all that a step changes,
some ten times an epoch.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

from robustdistill.engine import loop, vigil
from robustdistill.engine.state import State
from robustdistill.prepare import Run, prepare
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve


class Blind(vigil.Vigil):
    """Fetches losses and looks at nothing else."""

    def begin(self) -> None:
        pass

    def look(self, fetch: bool) -> Any:
        return self._state.tally.fetch() if fetch else None
        yield


def epoch(run: Run, watch: type[vigil.Vigil]) -> float:
    """Seconds of one more epoch, without its judging."""
    state: State = run.state
    state.step = 0
    state.tally = type(state.tally)()
    with mock.patch.object(loop, "Vigil", watch):
        events: Iterator[Any] = loop.train(run.job, state)
        began = time.perf_counter()
        next(e for e in events if type(e).__name__ == "Trained")
        if run.device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - began


def prepared(given: argparse.Namespace) -> Run:
    """The run that the flags describe."""
    layer: dict[str, Any] = {"method": given.method, "device": given.device, "batch_size": given.batch_size}
    layer |= {"data": {"name": given.data} | ({"dir": given.data_dir} if given.data_dir else {}), "epochs": 300}
    layer |= {"student": given.student} if given.student else {}
    layer |= {"limit_batches": given.batches} if given.batches else {}
    return prepare(resolve([layer], default_registry()), default_registry())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("student", ""), ("data", "digits"), ("data-dir", ""), ("device", "auto"), ("method", "sat")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("batches", 0), ("batch-size", 128), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    run = prepared(given)
    epoch(run, vigil.Vigil)  # whatever the first one has to set up
    pairs = [(epoch(run, vigil.Vigil), epoch(run, Blind)) for _ in range(given.rounds)]
    looks, blind = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{run.spec.student.name} on {run.device}, {len(run.job.steps.batches)} steps of {given.batch_size}")
    print(f"with the look {looks:.3f} s, without {blind:.3f} s; ratio {ratio:.4f} (median of {given.rounds} pairs)")


if __name__ == "__main__":
    main()
