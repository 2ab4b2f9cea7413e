"""All checks in a row. One that itself fails is a finding like any other."""

from collections.abc import Callable, Sequence
from pathlib import Path

from robustdistill.doctor.finding import FAILS, Asked, Finding, fails
from robustdistill.errors import RobustDistillError, first_line

Check = Callable[[Asked], Finding | list[Finding]]


def examine(asked: Asked, checks: "Sequence[Check] | None" = None) -> list[Finding]:
    """What every check finds, in order. Raises nothing."""
    try:
        Path.cwd()
    except OSError as error:  # nothing else is tried: torch's libraries end a process whose folder was deleted
        return [fails("current folder", f"cannot be used: {first_line(error)}", "change to another folder")]
    return [found for check in (all_checks() if checks is None else checks) for found in _guarded(check, asked)]


def all_checks() -> tuple[Check, ...]:
    """From what all else needs to what few runs do."""
    from robustdistill.doctor import images, machine, places, software

    return (
        *(software.python, software.torch, software.torchvision, software.packages, software.plugins),
        *(machine.device, machine.arithmetic, machine.formats, machine.compiler, machine.threads),
        *(places.home, places.cache, places.hub_cache, places.temporary_files, places.disk, places.runs),
        *(places.encoding, places.clock, images.data),
    )


def failing(findings: Sequence[Finding]) -> list[Finding]:
    """Those that would make something fail."""
    return [f for f in findings if f.state == FAILS]


def _guarded(check: Check, asked: Asked) -> list[Finding]:
    name = getattr(check, "__name__", "check").replace("_", " ")
    try:
        found = check(asked)
    except RobustDistillError as error:
        return [fails(name, first_line(error), "do as it says, then ask again")]
    except Exception as error:
        told = f"this check itself fails: {type(error).__name__}: {first_line(error)}"
        return [fails(name, told, "if the lines above do not explain it, report it")]
    return [found] if isinstance(found, Finding) else found
