"""What a check is and how a list of them is run: each is a function that raises AssertionError with a sentence."""

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from robustdistill.blame import line_of

OK, FAILS, NONE = "ok", "fails", "-"
BASIC = frozenset({"shape", "global-rng", "repeats", "draws", "logits", "eval-mode"})  # without them others fail too


class Subject(Protocol):
    """What is checked; `what` names it in sentences."""

    @property
    def what(self) -> str: ...


S = TypeVar("S", bound=Subject)
Check = Callable[[S], None]
"""Returns when all is well, raises AssertionError with a sentence when not, `DoesNotApply` with a reason."""


class DoesNotApply(Exception):
    """There is nothing to check, for the reason given."""


@dataclass(frozen=True)
class Finding:
    """What one check found: `state` is ok, fails or - (does not apply); `sentence` says why."""

    check: str
    state: str
    sentence: str = ""
    error: BaseException | None = None


def hold(good: object, sentence: str) -> None:
    """AssertionError with the sentence unless `good`; unlike `assert`, under `python -O` too."""
    if not good:
        raise AssertionError(sentence)


def name_of(check: Callable[..., None]) -> str:
    """A check's name: that of its function, with hyphens."""
    return check.__name__.removesuffix("_").replace("_", "-")


def promise(check: Callable[..., None]) -> str:
    """What a check holds a unit to: the first paragraph of its docstring, on one line."""
    return " ".join((inspect.getdoc(check) or "").partition("\n\n")[0].split())


def examine(subject: S, checks: Sequence[Check[S]], skip: Collection[str] = ()) -> Iterator[Finding]:
    """Runs the checks in order, up to the first that fails because the unit raised, or that is one of `BASIC`."""
    known = [name_of(check) for check in checks]
    if unknown := sorted(set(skip) - set(known)):
        raise ValueError(f"there is no check {', '.join(unknown)} to skip; there are: {', '.join(known)}")
    for i, (name, check) in enumerate(zip(known, checks, strict=True), 1):
        finding = Finding(name, NONE, "skipped") if name in skip else _run(subject, check, name)
        yield finding
        raised = finding.error is not None and not isinstance(finding.error, AssertionError)
        if raised or (finding.state == FAILS and name in BASIC):
            if rest := known[i:]:
                yield Finding(
                    "the rest", NONE, f"not checked, for they would fail for the same reason: {', '.join(rest)}"
                )
            return


def _run(subject: S, check: Check[S], name: str) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(subject)
    except DoesNotApply as reason:
        return Finding(name, NONE, str(reason))
    except AssertionError as error:
        return Finding(name, FAILS, str(error), error)
    except (Exception, SystemExit) as error:  # the unit's own
        return Finding(name, FAILS, f"{subject.what} raised {spelt(error)}", error)
    return Finding(name, OK)


def spelt(error: BaseException) -> str:
    """An exception in a line: its kind, its first sentence, and the last place that is not ours."""
    at = line_of(error)
    place = f" ({Path(at.filename).name}:{at.lineno})" if at else ""
    return f"{type(error).__name__}: {brief(error)}".removesuffix(": ") + place


def brief(error: BaseException) -> str:
    """The first sentence of an exception."""
    return next(iter(str(error).strip().splitlines()), "").partition(". ")[0].rstrip(".")


def stopped(what: str, error: Exception, instead: str) -> AssertionError:
    """What a unit that does not take a step on device meta did wrong; `instead` where it asked the host for a value."""
    asks = "meta" in str(error)
    where = " on device meta, where tensors have no values" if asks else ""
    return AssertionError(f"{what} cannot take a step{where}: {brief(error)}" + (f". Use {instead}" if asks else ""))


def insist(subject: S, checks: Sequence[Check[S]], skip: Collection[str] = ()) -> None:
    """AssertionError that says what each failing check found."""
    failed = [f for f in examine(subject, checks, skip) if f.state == FAILS]
    if failed:
        raise AssertionError("\n".join(f"{f.check}: {f.sentence}" for f in failed)) from failed[0].error


def called(unit: Any) -> str:
    """What a unit calls itself."""
    name = getattr(unit, "__name__", None) or getattr(getattr(unit, "func", None), "__name__", None)
    return str(name or type(unit).__name__)
