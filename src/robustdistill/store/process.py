"""Whether a process that left its number behind still runs."""

import os
from pathlib import Path

DEAD_STATES = ("Z", "X")


def alive(pid: int, born: str = "") -> bool:
    """Whether process `pid` of this machine runs and, if `born` is known, is that process and no later one."""
    if os.name == "nt":
        return True  # os.kill would end the process there; to refuse is the safe answer
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no system has a number so large
        return False
    except PermissionError:
        pass  # somebody else's process
    state, birth = _stat(pid)
    return state not in DEAD_STATES and (not born or not birth or birth == born)


def birth(pid: int) -> str:
    """When `pid` started, in clock ticks since boot (numbers are given out again, this is not); "" where unknown."""
    return _stat(pid)[1]


def _stat(pid: int) -> tuple[str, str]:
    """State and start time, fields 3 and 22 of Linux' /proc/PID/stat (proc(5)); empty on other systems."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
