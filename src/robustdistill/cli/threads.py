"""How a CPU's threads wait for each other: settings that are read when torch is imported."""

import os
import sys

SPINS, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


def patient() -> None:
    """Threads with nothing to do go to sleep at once, unless the user has said how they wait or torch is there already.

    By default they spin for milliseconds, between any two operations of a small network. On a core that another process
    wants, that uses up their share of it, and the operation waits for them: a training of the digits beside one busy
    process took more than five times as long as it does so, and alone it gains nothing.
    """
    if "torch" not in sys.modules and not {SPINS, POLICY} & os.environ.keys():
        os.environ[SPINS] = "1000"
