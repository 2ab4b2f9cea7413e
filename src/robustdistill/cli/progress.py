"""A run's events as a picture of where it stands, and that picture as plain lines or JSON."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from robustdistill.events import Evaluated, Event, Finished, Started, Stepped, Trained, Warned
from robustdistill.report.numbers import duration, percent
from robustdistill.store.plain import plain

H100_FLOPS = 3e14  # prototypes of MMARD's and RSLAD's steps from a WRN-34-10 reached 3.7e14 and 2.3e14 on one
WORTH_TELLING = 1e15  # below a PFLOP the time left is known before anyone has read the estimate


@dataclass(frozen=True)
class View:
    """What is known of a run after some of its events."""

    phase: str = "preparing"
    started: Started | None = None
    stepped: Stepped | None = None
    trained: Trained | None = None
    last: Evaluated | None = None
    best: Evaluated | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def epochs(self) -> int:
        return self.started.epochs if self.started else 0

    @property
    def steps_done(self) -> int:
        """Steps since epoch 0."""
        if self.started is None:
            return 0
        if self.stepped is None:
            return self.steps_before
        return self.stepped.epoch * self.stepped.steps + self.stepped.step

    @property
    def steps_before(self) -> int:
        """Steps that were done when the run started or went on."""
        s = self.started
        return s.start_epoch * s.steps_per_epoch + s.start_step if s else 0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.started.epochs * self.started.steps_per_epoch if self.started else 0

    @property
    def place(self) -> tuple[int, int]:
        """The epoch, from 1, that is trained or judged now, and how many of its steps are done."""
        size = self.started.steps_per_epoch if self.started else 1
        done = self.steps_done if self.phase == "training" else max(0, self.steps_done - 1)
        epoch = min(done // size, max(0, self.epochs - 1))
        return epoch + 1, self.steps_done - epoch * size


def advance(view: View, event: Event) -> View:
    """The picture after one more event."""
    if isinstance(event, Started):
        finished = event.start_epoch >= event.epochs
        return replace(view, phase="testing" if finished else "training", started=event, began=time.monotonic())
    if isinstance(event, Stepped):
        return replace(view, phase="judging" if event.step == event.steps else "training", stepped=event)
    if isinstance(event, Trained):
        return replace(view, phase="judging" if event.judged else "training", trained=event)
    if isinstance(event, Evaluated):
        phase = "training" if event.epoch + 1 < view.epochs else "testing"
        return replace(view, phase=phase, last=event, best=event if event.best else view.best)
    return replace(view, phase="done") if isinstance(event, Finished) else view


def pictures(events: Iterable[Event]) -> Iterator[tuple[Event, View]]:
    """Each event with the picture after it."""
    view = View()
    for event in events:
        view = advance(view, event)
        yield event, view


def heading(started: Started) -> str:
    """One line on what runs."""
    step = f", step {started.start_step + 1}" if started.start_step else ""
    again = f", from epoch {started.start_epoch + 1}{step}" if started.start_epoch or step else ""
    size = f"{started.epochs} epochs of {started.steps_per_epoch} steps{again}"
    where = f"{started.device}, {started.execution}"
    cost = f"; {work(started.flops)}" if started.flops >= WORTH_TELLING else ""
    return f"{started.method}: {size}; student of {started.parameters:,} parameters on {where}{cost}"


def work(flops: float, core_seconds: float | None = None) -> str:
    """The operations of a run's steps and their time: on a core of a CPU where that is given, else on a large GPU."""
    pflop = f"{flops / 1e15:,.0f}" if flops >= 1e16 else f"{flops / 1e15:.2g}"
    if core_seconds is not None:
        return f"{pflop} PFLOP, some {duration(core_seconds)} on one core of a CPU (an AMD EPYC)"
    taken = duration(flops / H100_FLOPS)
    return f"{pflop} PFLOP, some {taken} at {H100_FLOPS / 1e12:.0f} TFLOP/s (about one H100 in bf16)"


def ratios(event: Trained | Evaluated) -> str:
    """How hard each term of the outer loss pulls, relative to the first: "trd/kl 0.012"."""
    first, *others = event.gradients or {"": 0.0}
    return "  ".join(f"{name}/{first} {event.gradients[name]:.2g}" for name in others)


def eta(view: View) -> float | None:
    """Seconds to the end, at the pace since the run started."""
    done = view.steps_done - view.steps_before
    return (time.monotonic() - view.began) / done * (view.steps - view.steps_done) if done else None


def epoch_line(event: Trained | Evaluated, view: View) -> str:
    """One epoch in one line, with its accuracies if it was judged."""
    pace, left = view.stepped.images_per_second if view.stepped else 0.0, eta(view)
    parts = [
        f"epoch {event.epoch + 1}/{view.epochs}",
        f"loss {event.loss:.4g}",
        f"lr {event.lr:.3g}",
        *(_accuracies(event) if isinstance(event, Evaluated) else ()),
        ratios(event),
        f"{pace:,.0f} images/s",
        duration(event.seconds),
        f"ETA {duration(left)}" if left else "",
    ]
    return "  ".join(p for p in parts if p)


def _accuracies(event: Evaluated) -> tuple[str, str]:
    best = " (best)" if event.best else ""
    return f"{event.split} clean {percent(event.clean)}", f"{event.attack} {percent(event.robust)}{best}"


def lines(events: Iterable[Event]) -> Finished:
    """Drives a run and writes one line per epoch to stderr."""
    finished = None
    for event, view in pictures(events):
        if text := line(event, view):
            print(text, file=sys.stderr, flush=True)
        finished = event if isinstance(event, Finished) else finished
    assert finished is not None, "a run ends with Finished"
    return finished


def line(event: Event, view: View) -> str:
    """What a plain log says of an event; nothing for most."""
    match event:
        case Started():
            return heading(event)
        case Evaluated() | Trained(judged=False):
            return epoch_line(event, view)
        case Warned():
            return f"warning: {event.message}"
    return ""


def json_lines(events: Iterable[Event]) -> Finished:
    """Drives a run and writes each event to stdout as one line of JSON."""
    finished = None
    for event in events:
        emit({"event": type(event).__name__.lower(), **plain(event)})
        finished = event if isinstance(event, Finished) else finished
    assert finished is not None, "a run ends with Finished"
    return finished


def emit(record: dict[str, Any]) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(record, allow_nan=False), flush=True)
