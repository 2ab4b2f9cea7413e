"""Running what `eval` asked for, and its table."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustdistill.cli import failures, processes, progress, render
from robustdistill.cli.drive import quoted
from robustdistill.report.numbers import interval, percent
from robustdistill.report.tables import Table

if TYPE_CHECKING:
    from robustdistill.evaluation.verdict import Verdict
    from robustdistill.judging import Case, Checks
    from robustdistill.store.partial import Partial
    from robustdistill.store.rundir import RunDir
    from robustdistill.types import Attack, Progress, Watch


def names(attacks: str | None) -> list[str]:
    """The attacks in the order in which they run: `clean` is always the first."""
    from robustdistill.judging import DEFAULT_ATTACKS

    given = [name.strip() for name in attacks.split(",") if name.strip()] if attacks else DEFAULT_ATTACKS
    return list(dict.fromkeys(["clean", *given]))


def judge(
    case: "Case",
    attacks: "Mapping[str, Attack]",
    facts: Mapping[str, Any],
    store: "RunDir | None",
    out: Path | None,
    *,
    checks_on: int,
    as_json: bool,
) -> None:
    """All of it: verdicts, checks, what is kept of them, and what is shown."""
    from robustdistill import noted
    from robustdistill.store.atomic import write_atomic
    from robustdistill.store.plain import dumps

    kept = noted.parts(case)
    verdicts = follow(case, attacks, kept, as_json)
    everything = _kept(store, case, verdicts, facts, None)  # before the checks, which may be interrupted
    checks = checked(case, verdicts, checks_on, everything or verdicts)
    if everything and checks:
        _kept(store, case, verdicts, facts, checks)
    if out is not None:
        write_atomic(out, dumps(noted.record(verdicts, facts, checks)))
    if kept and processes.first("LOCAL_RANK"):
        kept.clear()
    if as_json:
        accuracies = {v.attack: v.accuracy for v in verdicts}
        alarms = checks.plain()["alarms"] if checks else []
        progress.emit({"event": "judged", **facts, "accuracies": accuracies, "alarms": alarms})
    else:
        report(verdicts, checks, facts, store if everything else None, everything)


def may_keep(store: "RunDir", case: "Case", facts: Mapping[str, Any]) -> bool:
    """Whether the verdicts to come may go into the run's folder; said before hours are spent on them."""
    from robustdistill import noted

    if told := noted.guarded(store, facts, case.y):
        print(told, file=sys.stderr)
    return not told


def _kept(
    store: "RunDir | None",
    case: "Case",
    verdicts: "Sequence[Verdict]",
    facts: Mapping[str, Any],
    checks: "Checks | None",
) -> "Sequence[Verdict]":
    """All verdicts that the run's folder has now, none if it does not take these; someone else's folder need not."""
    from robustdistill import noted
    from robustdistill.store.rundir import UNWRITABLE

    if not store or not may_keep(store, case, facts):  # asked again: another process may have judged meanwhile
        return ()
    try:
        return noted.add(store, verdicts, facts, case.y, checks)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        advice = "the verdicts are only shown; --out FILE keeps them elsewhere"
        print(f"{store.path} cannot be written ({error.strerror}): {advice}", file=sys.stderr)
        return ()


def follow(case: "Case", attacks: "Mapping[str, Attack]", kept: "Partial | None", as_json: bool) -> "list[Verdict]":
    """Each attack's verdict and the worst case of them, told as they come; interrupted, it says how to go on."""
    try:
        return _verdicts(case, attacks, kept, as_json)
    except KeyboardInterrupt:
        tail = "what is done is kept, and the same command goes on from there" if kept else "nothing was kept"
        print(f"interrupted; {tail}", file=sys.stderr)
        raise


def _verdicts(case: "Case", attacks: "Mapping[str, Attack]", kept: "Partial | None", as_json: bool) -> "list[Verdict]":
    verdicts: list[Verdict] = []
    with render.waiting("") as tell:

        def begins(name: str) -> "Watch":
            if passes := attacks[name].passes:
                _tell_cost(case, name, passes, verdicts)
            tell(name)
            return _teller(tell, name)

        for verdict in case.verdicts(attacks, kept, begins):
            verdicts.append(verdict)
            _emit(verdict, as_json)
    return verdicts


def _teller(tell: Callable[[str], None], name: str) -> "Watch":
    def watch(now: "Progress") -> None:
        part = name if now.attack == name else f"{name}, {now.attack}"
        tell(f"{part}: {now.done} of {now.units} batches, {now.standing:,} images still right")

    return watch


def _tell_cost(case: "Case", name: str, passes: int, before: "Sequence[Verdict]") -> None:
    """What an attack of many passes will cost: it works on all images, most of all on those that nothing breaks."""
    from robustdistill.evaluation.verdict import worst

    standing = int(worst(before).correct.sum()) if before else len(case.y)
    flops = standing * passes * case.flops()
    cost = f", {flops / 1e15:.2g} PFLOP" if flops else ""
    print(f"{name}: up to {standing:,} images x {passes:,} forwards and gradients{cost}", file=sys.stderr)


def _emit(verdict: "Verdict", as_json: bool) -> None:
    if as_json:
        progress.emit({"event": "verdict", **verdict.plain()})


def checked(case: "Case", verdicts: "Sequence[Verdict]", n: int, known: "Sequence[Verdict]") -> "Checks | None":
    """The checks on the attacks that were run, unless none was or none is asked for; `known` are all verdicts there."""
    if not n or case.eps == 0 or all(v.attack == "clean" for v in verdicts):
        return None
    with render.waiting(f"checking the attacks on {min(n, len(case.y))} images"):
        return case.checked(known, n)


def report(
    verdicts: "Sequence[Verdict]",
    checks: "Checks | None",
    facts: Mapping[str, Any],
    store: "RunDir | None",
    everything: "Sequence[Verdict]",
) -> None:
    """The table and the alarms, and what else is known of the run."""
    print(f"{facts['target']}: {facts['n']:,} test images of {facts['data']}, eps {facts['eps']:.4g}\n")
    render.show(_table(verdicts))
    render.say([f"{v.attack}: {failures.one_line(alarm)}" for v in verdicts for alarm in v.alarms])
    render.say([f"alarm: {alarm.sentence}" for alarm in (checks.alarms if checks else ())])
    render.say(_beside(verdicts, everything))
    if store:
        render.say([f"next  robustdistill report {quoted(store.path)}"])


def _beside(verdicts: "Sequence[Verdict]", everything: "Sequence[Verdict]") -> list[str]:
    """Which earlier verdicts were kept, and what all attacks together leave."""
    now = {v.attack for v in verdicts} | {"worst"}
    if others := [v.attack for v in everything if v.attack not in now]:
        left = percent(everything[-1].accuracy)
        return [f"kept beside the earlier verdicts under {', '.join(others)}; worst of all of them: {left}"]
    return []


def _table(verdicts: "Sequence[Verdict]") -> Table:
    rows = []
    for verdict in verdicts:
        v = verdict.plain()
        numbers = (percent(v["accuracy"]), interval(v["interval95"]), percent(v["worst_class"], 1))
        rows.append((verdict.attack, verdict.summary, *numbers, f"{verdict.seconds:.1f}"))
    return Table(
        ("attack", "what it is", "accuracy %", "95 % interval", "worst class", "seconds"), tuple(rows), words=2
    )
