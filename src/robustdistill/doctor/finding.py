"""What was asked of the doctor, and what one check found."""

from dataclasses import dataclass
from pathlib import Path

OK, NOTE, FAILS = "ok", "note", "fails"


@dataclass(frozen=True)
class Asked:
    """The training that should work: its device, its data set and the folder of that, and where runs go."""

    device: str = "auto"
    data: str | None = None
    data_dir: Path | None = None
    runs: Path = Path("runs")


@dataclass(frozen=True)
class Finding:
    """One check: its name, its `state` (ok, note or fails), what was found, and what to do about it.

    `needed`: whether the training that was asked about would fail with it.
    """

    check: str
    state: str
    found: str
    advice: str = ""
    needed: bool = False


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, OK, found)


def note(check: str, found: str, advice: str) -> Finding:
    """Something to know; nothing fails."""
    return Finding(check, NOTE, found, advice)


def fails(check: str, found: str, advice: str, *, needed: bool = True) -> Finding:
    """Something would fail; `needed`: in the training that was asked about."""
    return Finding(check, FAILS, found, advice, needed)


def size(n: float) -> str:
    """Bytes as people say them: "1.2 GB", "340 MB"."""
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.0f} MB"
