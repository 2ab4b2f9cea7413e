"""Workers as processes of this machine: started, watched, started again when a run ends one of them, and stopped."""

import itertools
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from robustdistill.errors import RobustDistillError
from robustdistill.store.lease import machine
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item

DEATHS = 3  # of a worker over one run: then it is the run's fault, and not somebody's who killed it
LOOK = 0.5  # seconds between two looks at the workers
TELL = 4  # looks after which the study's files are looked at too
WORKERS = "workers.log"


@dataclass
class Place:
    """Where one worker after the other runs, with its own part of the machine in the environment."""

    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Crew:
    """Runs `command` once a place until nothing is left to do. `look` is called every other second."""

    folder: Folder
    items: Sequence[Item]
    command: Sequence[str]
    left: Callable[[], Sequence[Item]]
    look: Callable[[], Any] = lambda: None
    stop: Callable[[], bool] = lambda: False
    deaths: Counter[str] = field(default_factory=Counter)
    fruitless: int = 0
    known: set[str] = field(default_factory=set)

    def run(self, places: Sequence[Place]) -> bool:
        """Returns, once every worker has ended, whether it was not stopped. All workers end with this call.

        Raises RobustDistillError if workers end before they have taken anything up.
        """
        self.known = {item.id for item in self.left()}
        try:
            for tick in itertools.count():
                if self.stop():
                    break
                for place in places:
                    self._tend(place)
                if not any(place.process for place in places):
                    return True
                if tick % TELL == 0:
                    self.look()
                time.sleep(LOOK)
            self._end(places, signal.SIGTERM)
            return False
        finally:
            self._end(places, signal.SIGKILL)

    def _tend(self, place: Place) -> None:
        if place.process is not None and place.process.poll() is None:
            return
        if place.process is not None:
            self._ended(place.process)
            place.process = None
        if self.left():
            place.process = self._started(place)

    def _started(self, place: Place) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches this process alone, which then asks its workers to stop.
        with (self.folder.logs / WORKERS).open("ab") as log:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **place.environment},
                start_new_session=True,
            )

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        """A worker that died with a run in its hands left no word on that; one without must not begin for ever."""
        before, self.known = self.known, {item.id for item in self.left()}
        for item in self.items:
            holder = self.folder.holder(item)
            if holder is None or (holder.machine, holder.pid) != (machine(), process.pid):
                continue
            self.deaths[item.id] += 1
            if self.deaths[item.id] >= DEATHS:
                self.folder.fail(item, process.returncode, _death(process.returncode, self.deaths[item.id]))
            return
        self.fruitless = self.fruitless + 1 if process.returncode and self.known == before else 0
        if self.fruitless >= DEATHS:
            raise RobustDistillError(
                f"the workers end as soon as they begin, the last one with exit code {process.returncode}; "
                f"{self.folder.logs / WORKERS} says why"
            )

    def _end(self, places: Sequence[Place], how: signal.Signals) -> None:
        running = [place.process for place in places if place.process is not None and place.process.poll() is None]
        for process in running:
            process.send_signal(how)
        for process in running:
            process.wait()


def _death(code: int, times: int) -> str:
    what = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
    return f"its worker died {times} times in a row, the last time {what}; the memory may have run out"


def places(workers: int, gpus: Sequence[str]) -> list[Place]:
    """So many places: each with one of the GPUs in turn, and its share of the CPU's cores."""
    shares = {"OMP_NUM_THREADS": str(max(1, cores() // workers))} if "OMP_NUM_THREADS" not in os.environ else {}
    shown = [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(workers)]
    return [Place({**shares, **one}) for one in shown]


def visible_gpus(items: Sequence[Item]) -> list[str]:
    """The GPUs that the runs may use, by what CUDA_VISIBLE_DEVICES calls them; none if all ask for the CPU."""
    if not torch.cuda.is_available() or all(item.spec and item.spec.device == "cpu" for item in items):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def cores() -> int:
    """The CPU's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
