"""Signals that ask a run to stop: it is saved after the step that it is in, and can be resumed from there."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from robustdistill.errors import Stopped

ASK = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]


class Asked:
    """Whether the process was asked to stop, by the signal `number`. Set `training` once there is something to save."""

    def __init__(self) -> None:
        self.number, self.training = 0, False

    def __call__(self) -> bool:
        return self.number != 0

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.number == signal.SIGINT

    def hear(self, number: int, _: Any) -> None:
        """Before training, and on a second Ctrl-C, the process stops where it is."""
        if number == signal.SIGINT and (self.interrupted or not self.training):
            raise KeyboardInterrupt
        if not self.training:
            raise Stopped(f"stopped by {signal.Signals(number).name} before the first step; start it again")
        self.number = self.number or number


@contextmanager
def listening() -> Iterator[Asked]:
    """In the block SIGTERM, SIGUSR1 and Ctrl-C ask; afterwards they do what they did before."""
    asked = Asked()
    before = {number: signal.signal(number, asked.hear) for number in ASK}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
