"""What is known of finished runs, side by side."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustdistill.cli.results import accuracies
from robustdistill.errors import DamagedFile
from robustdistill.report.numbers import Mean, means, spread
from robustdistill.report.tables import Table
from robustdistill.spec import RunSpec, from_layer, load_layer
from robustdistill.store.plain import plain
from robustdistill.store.rundir import EVALUATION, RESULT, SPEC, RunDir


@dataclass(frozen=True)
class Outcome:
    """One run: its spec, test accuracies in [0, 1] of its best and last epoch, and what `eval` noted, if it ran."""

    path: str
    spec: RunSpec
    best: dict[str, float]
    last: dict[str, float]
    judged: dict[str, Any] = field(default_factory=dict)


def outcome(run: RunDir) -> Outcome:
    """Reads a run: the best epoch from `evaluation.json` if present, all else from `result.json`."""
    judged = _evaluation(run)
    result = run.read_result() if not judged or (run.path / RESULT).exists() else {}
    spec = from_layer(load_layer(run.path / SPEC))
    best = {v["attack"]: v["accuracy"] for v in judged["verdicts"]} if judged else accuracies(result["best"])
    return Outcome(str(run.path), spec, best, accuracies(result["last"]) if result else {}, judged)


def _evaluation(run: RunDir) -> dict[str, Any]:
    path = run.path / EVALUATION
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("verdicts"), list):
        raise DamagedFile(f"{path} holds no verdicts; run `robustdistill eval {run.path}` again")
    return content


def by_spec(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Runs of one spec up to the seed go together; a repeated seed, which tells nothing new, starts another group."""
    groups: dict[tuple[str, int], list[Outcome]] = {}
    seen: Counter[str] = Counter()
    for o in outcomes:
        repeated = seen[o.spec.hash()]
        seen[o.spec.hash()] += 1
        groups.setdefault((o.spec.model_copy(update={"seed": 0}).hash(), repeated), []).append(o)
    return list(groups.values())


def comparison(groups: Sequence[Sequence[Outcome]]) -> Table:
    """Two rows per group, its best and its last epoch: what was run, and the accuracy under each attack."""
    found = _accuracies(groups)
    names = _names([values for _, _, values in found])
    rows = ((*_described(group), which, *(spread(values.get(n)) for n in names)) for group, which, values in found)
    return Table(("run", "method", "student", "seeds", "epoch", *names), tuple(rows), words=5)


def numbered(groups: Sequence[Sequence[Outcome]]) -> tuple[Table, Table]:
    """The same for narrow places: the runs by number, and the accuracies by that number."""
    found = _accuracies(groups)
    names = _names([values for _, _, values in found])
    numbers = {id(group): str(i + 1) for i, group in enumerate(groups)}
    who = ((numbers[id(group)], *_described(group)) for group in groups)
    rows = ((numbers[id(g)], which, *(spread(values.get(n), 1) for n in names)) for g, which, values in found)
    return (
        Table(("", "run", "method", "student", "seeds"), tuple(who), words=5),
        Table(("", "epoch", *names), tuple(rows), words=2),
    )


def _accuracies(groups: Sequence[Sequence[Outcome]]) -> list[tuple[Sequence[Outcome], str, dict[str, Mean]]]:
    both = [(g, which, means([getattr(o, which) for o in g])) for g in groups for which in ("best", "last")]
    return [(g, which, values) for g, which, values in both if values]


def _names(found: Sequence[Mapping[str, Mean]]) -> list[str]:
    """All attacks, in the order of the group that knows most of them."""
    return list(dict.fromkeys(name for values in sorted(found, key=len, reverse=True) for name in values))


def _described(group: Sequence[Outcome]) -> tuple[str, str, str, str]:
    spec = group[0].spec
    method = " + ".join((f"{spec.method}: {spec.inner.name} > {spec.outer.name}", *(m.name for m in spec.modifiers)))
    return _label(group), method, spec.student.name, ",".join(str(o.spec.seed) for o in group)


def record(group: Sequence[Outcome]) -> dict[str, Any]:
    """A group as one JSON object; accuracies in [0, 1]."""
    spec = group[0].spec
    return {
        "runs": [o.path for o in group],
        "seeds": [o.spec.seed for o in group],
        "method": spec.method,
        "inner": spec.inner.name,
        "outer": spec.outer.name,
        "with": [m.name for m in spec.modifiers],
        "student": spec.student.name,
        "data": spec.data.name,
        "eps": spec.eps,
        "judged": [{k: v for k, v in o.judged.items() if k != "verdicts"} for o in group],
        "best": plain(means([o.best for o in group])),
        "last": plain(means([o.last for o in group])),
    }


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on numbers that are not those of the whole test set under the run's own radius."""
    return [f"{o.path}: {text}" for o in outcomes for text in (*_judged_otherwise(o.judged, o.spec), *_trained(o.spec))]


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


def _label(group: Sequence[Outcome]) -> str:
    paths = [o.path for o in group]
    first, last = min(paths), max(paths)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first if len(paths) == 1 else first[:same] + "*"
