"""What is known of finished runs, side by side."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustdistill import records
from robustdistill.cli.drive import quoted
from robustdistill.cli.results import accuracies
from robustdistill.spec import RunSpec
from robustdistill.store import sealed
from robustdistill.store.rundir import AGAIN, EVALUATION, RESULT, RunDir
from robustdistill.stored import stored_spec

Conditions = tuple[str, float, int]
"""A data set, a radius, and how many of the test images: 0 for all of them."""


@dataclass(frozen=True)
class Outcome:
    """One run: its spec, test accuracies in [0, 1] of its best and last epoch, and what `eval` noted, if it ran."""

    path: str
    spec: RunSpec
    best: dict[str, float]
    last: dict[str, float]
    judged: dict[str, Any] = field(default_factory=dict)

    def conditions(self, which: str) -> Conditions:
        """What the accuracies of its `best` or `last` epoch are of."""
        spec, facts = self.spec, self.judged if which == "best" else {}
        if facts:
            part = 0 if facts.get("whole", True) else facts["n"]
            return facts.get("data", spec.data.name), facts.get("eps", spec.eps), part
        return spec.data.name, spec.eps, (spec.limit_batches or 0) * spec.batch_size

    @property
    def over(self) -> frozenset[str]:
        """The attacks that `worst` is the worst case of; none where it is not known."""
        return frozenset(self.best) - {"worst"} if "worst" in self.best else frozenset()


def outcome(run: RunDir) -> Outcome:
    """Reads a run: the best epoch from `evaluation.json` if present, all else from `result.json`."""
    judged = evaluation(run)
    told = result(run) if not judged or (run.path / RESULT).exists() else {}
    spec = stored_spec(run)
    best = {v["attack"]: v["accuracy"] for v in judged["verdicts"]} if judged else accuracies(told["best"])
    return Outcome(str(run.path), spec, best, accuracies(told["last"]) if told else {}, judged)


def known(run: RunDir) -> bool:
    """Whether there is anything to show of a run: it has ended, or was judged."""
    return any((run.path / name).exists() for name in (RESULT, EVALUATION))


def unfinished(run: RunDir) -> str:
    """That a run is left out, and how to go on with it."""
    on = f"unless it still runs, `robustdistill train --resume {quoted(run.path)}` goes on with it"
    return f"{run.path} is left out: it has no result yet; {on}"


def result(run: RunDir, kind: Any = records.RESULT) -> dict[str, Any]:
    """The result of a run. UserError while there is none, DamagedFile where it is not as written."""
    content = run.read_result()
    records.check(kind, content, run.path / RESULT, AGAIN)
    return content


def evaluation(run: RunDir, kind: Any = records.EVALUATION) -> dict[str, Any]:
    """What `eval` noted of a run, empty where it did not run; DamagedFile where it is not as written."""
    path, mend = run.path / EVALUATION, f"run `robustdistill eval {run.path}` again"
    if not path.exists():
        return {}
    content = sealed.read(path, mend)
    records.check(kind, content, path, mend)
    return content


def by_spec(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Runs of one spec up to the seed go together, if they were judged on the same images within the same radius.

    A repeated seed, which tells nothing new, starts another group.
    """
    groups: dict[tuple[str, int, Conditions], list[Outcome]] = {}
    seen: Counter[str] = Counter()
    for o in outcomes:
        repeated = seen[o.spec.hash()]
        seen[o.spec.hash()] += 1
        groups.setdefault((_seedless(o), repeated, o.conditions("best")), []).append(o)
    return list(groups.values())


def _seedless(o: Outcome) -> str:
    return o.spec.model_copy(update={"seed": 0}).hash()


def apart(groups: Sequence[Sequence[Outcome]]) -> list[str]:
    """Sentences on groups that differ in their seeds only and have no mean in common, and on a `worst` without one."""
    alike: dict[str, list[Sequence[Outcome]]] = {}
    for group in groups:
        alike.setdefault(_seedless(group[0]), []).append(group)
    several = [same for same in alike.values() if len({g[0].conditions("best") for g in same}) > 1]
    told = (
        "differ in their seeds only, and have no mean: they were not judged on the same images within the same radius"
    )
    lists = "were not judged under the same attacks: no mean of worst, each over its own attacks"
    return [
        *(f"{', '.join(o.path for g in same for o in g)} {told}" for same in several),
        *(f"{', '.join(o.path for o in g)} {lists}" for g in groups if len({o.over for o in g}) > 1),
    ]


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on numbers that are not those of the whole test set under the run's own radius."""
    return [f"{o.path}: {text}" for o in outcomes for text in remarks(o)]


def remarks(o: Outcome) -> list[str]:
    """The same sentences on one run, without its name."""
    return [*_judged_otherwise(o.judged, o.spec), *_trained(o.spec)]


def _judged_otherwise(facts: Mapping[str, Any], spec: RunSpec) -> Iterator[str]:
    if not facts.get("whole", True):
        yield f"best judged on the first {facts['n']:,} test images only"
    if facts.get("eps", spec.eps) != spec.eps:
        yield f"best judged at eps {facts['eps']:.4g}, trained at {spec.eps:.4g}"
    if facts.get("data", spec.data.name) != spec.data.name:
        yield f"best judged on {facts['data']}, trained on {spec.data.name}"


def _trained(spec: RunSpec) -> Iterator[str]:
    if spec.limit_batches is not None:
        yield f"a trial with limit_batches = {spec.limit_batches}"
    if spec.select.split == "test":
        yield "the best epoch was selected on the test set"
