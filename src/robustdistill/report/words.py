"""What a report says in sentences: the verdict, the alarms, and which command gives what is missing."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustdistill.report.contents import Contents
from robustdistill.report.numbers import interval, percent


def verdict(c: Contents) -> str:
    """The outcome of a run in one or two sentences, from the best source that there is."""
    who = f"{c.method} trained {c.student}" + (f" with {' and '.join(c.teachers)} as teacher" if c.teachers else "")
    if (clean := c.verdict("clean")) is not None:
        return f"{who}. {_judged(c, clean)}"
    if c.result:
        test = c.result["best"]["test"]
        robust = f"{percent(test.get(c.select))} % under {c.select} at eps {c.eps:.4g}"
        return (
            f"{who}. Of {test['n']:,} test images of {c.data} it classifies {percent(test.get('clean'))} % right "
            f"without an attack and {robust}, judged once, at the end of training."
        )
    done = sum(e["event"] == "trained" for e in c.events)
    return f"{who}. The run has not ended: {done} of {c.epochs} epochs are done."


def _judged(c: Contents, clean: Mapping[str, Any]) -> str:
    found = f"Of {clean['n']:,} test images of {c.judged.get('data', c.data)} it classifies"
    right = f"{percent(clean['accuracy'])} % right without an attack"
    hardest = c.hardest
    if hardest is None:
        return f"{found} {right}; it was judged under no attack."
    attacks = [v["attack"] for v in c.verdicts if v["attack"] not in ("clean", "worst")]
    under = attacks[0] if len(attacks) == 1 else f"all of {', '.join(attacks[:-1])} and {attacks[-1]}"
    robust = f"{percent(hardest['accuracy'])} % (95 % interval {interval(hardest['interval95'])})"
    return f"{found} {right} and {robust} under {under} at eps {hardest['eps']:.4g}."


def alarms(c: Contents) -> list[str]:
    """What to read before the numbers, each sentence once: the alarms of `eval`, the warnings of the run, the notes."""
    return list(dict.fromkeys([*c.judged.get("alarms", ()), *_of_verdicts(c), *_of_run(c), *c.notes]))


def _of_verdicts(c: Contents) -> Iterator[str]:
    return (f"{v['attack']}: {' '.join(a.split())}" for v in c.verdicts for a in v.get("alarms", ()))


def _of_run(c: Contents) -> Iterator[str]:
    return (str(e["message"]) for e in c.events if e["event"] == "warned")


def missing(c: Contents) -> list[tuple[str, str]]:
    """What the report lacks, and the command after which it will be there."""
    run = shlex.quote(c.path)
    wanted: Sequence[tuple[bool, str, str]] = (
        (not c.result, "The result, once the run has ended", f"robustdistill train --resume {run}"),
        (not c.verdicts, "Verdicts under several attacks, and the accuracy of each class", f"robustdistill eval {run}"),
        (
            not c.judged.get("curves"),
            "Accuracy over radius and steps, and images for the eye",
            f"robustdistill eval {run} --checks 200",
        ),
        (c.verdict("aa") is None, "AutoAttack", f"robustdistill eval {run} --attacks fgsm,pgd,pgd-trades,cw,aa"),
    )
    return [(what, command) for lacking, what, command in wanted if lacking]
