"""Groups of runs, each of one spec and several seeds, as tables and as JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustdistill.cli.outcomes import Conditions, Outcome
from robustdistill.cli.references import References
from robustdistill.report.numbers import Mean, difference, means, percent, spread
from robustdistill.report.tables import Table, highest
from robustdistill.spec import RunSpec
from robustdistill.store.plain import plain

LABELS = ("run", "method", "student", "seeds")


@dataclass(frozen=True)
class Row:
    """A group's `best` or `last` epoch: the mean accuracies, of what they are, and what they are held against.

    `number` counts the groups from 1. Rows of equal `conditions` can be compared.
    """

    number: int
    group: Sequence[Outcome]
    which: str
    values: Mapping[str, Mean]
    conditions: frozenset[Conditions]
    minus_teacher: Mapping[str, float]
    paper: Mapping[str, float]


def rows_of(groups: Sequence[Sequence[Outcome]], refer: Callable[[RunSpec], References]) -> list[Row]:
    """Two rows per group, or one where only the best or only the last epoch is known."""
    numbered = ((i, g, refer(g[0].spec)) for i, g in enumerate(groups, start=1))
    both = [_row(i, group, which, known) for i, group, known in numbered for which in ("best", "last")]
    return [row for row in both if row.values]


def _row(number: int, group: Sequence[Outcome], which: str, known: References) -> Row:
    values = averaged(group, which)
    conditions = frozenset(o.conditions(which) for o in group)
    spec = group[0].spec
    fair = conditions == {(spec.data.name, spec.eps, 0)}
    minus = {n: v.mean - known.accuracies[n] for n, v in values.items() if fair and n in known.accuracies}
    paper = known.paper.accuracies if known.paper and which == "best" else {}
    return Row(number, group, which, values, conditions, minus, paper)


def averaged(group: Sequence[Outcome], which: str) -> dict[str, Mean]:
    """The means over a group; none of `worst` where it is of other attacks in another run."""
    values = means([getattr(o, which) for o in group])
    same = which != "best" or len({o.over for o in group}) == 1
    return values if same else {name: mean for name, mean in values.items() if name != "worst"}


def comparison(rows: Sequence[Row]) -> Table:
    """One table: what was run, the accuracies, then those minus the teacher's, then a paper's own."""
    names, minus, paper = attacks(rows), _known(rows, "minus_teacher"), _known(rows, "paper")
    columns = (*LABELS, "epoch", *names, *(f"{n} - teacher" for n in minus), *(f"{n} (paper)" for n in paper))
    cells = (
        (*described(r.group), r.which, *_accuracies(r, names, 2), *_differences(r, minus), *_papers(r, paper))
        for r in rows
    )
    return Table(columns, tuple(cells), 5, _best(rows, names, 2, 5))


def numbered(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """The same for narrow places: titles and tables, the runs by number in the first and by that number in the rest."""
    who = {str(r.number): described(r.group) for r in rows}
    names, minus, paper = attacks(rows), _known(rows, "minus_teacher"), _known(rows, "paper")
    yield "", Table(("", *LABELS), tuple((n, *cells) for n, cells in who.items()), words=5)
    head = [(str(r.number), r.which) for r in rows]
    cells = ((*h, *_accuracies(r, names, 1)) for h, r in zip(head, rows, strict=True))
    yield "", Table(("", "epoch", *names), tuple(cells), 2, _best(rows, names, 1, 2))
    if minus:
        cells = ((*h, *_differences(r, minus)) for h, r in zip(head, rows, strict=True) if r.minus_teacher)
        yield "minus the teacher's accuracy on record, in points", Table(("", "epoch", *minus), tuple(cells), words=2)
    if paper:
        cells = ((str(r.number), *_papers(r, paper)) for r in rows if r.paper)
        yield "a paper's own numbers, not measured here", Table(("", *paper), tuple(cells))


def attacks(rows: Sequence[Row]) -> list[str]:
    """All attacks, in the order of the row that knows most of them."""
    return list(dict.fromkeys(name for r in sorted(rows, key=lambda r: -len(r.values)) for name in r.values))


def _known(rows: Sequence[Row], field: str) -> list[str]:
    """The attacks under which `field` is known for some row."""
    return [n for n in attacks(rows) if any(n in getattr(r, field) for r in rows)]


def _accuracies(row: Row, names: Sequence[str], digits: int) -> Iterator[str]:
    return (spread(row.values.get(n), digits) for n in names)


def _differences(row: Row, names: Sequence[str]) -> Iterator[str]:
    return (difference(row.minus_teacher.get(n)) for n in names)


def _papers(row: Row, names: Sequence[str]) -> Iterator[str]:
    return (percent(row.paper.get(n)) for n in names)


def _best(rows: Sequence[Row], names: Sequence[str], digits: int, before: int) -> frozenset[tuple[int, int]]:
    """The cells that are the highest of their column, as written, among two rows or more of like epoch and conditions.

    `before`: the columns before the first attack's.
    """
    return highest(
        (
            (name, row.which, row.conditions, _over(name, row)),
            round(100 * row.values[name].mean, digits),
            (i, before + j),
        )
        for j, name in enumerate(names)
        for i, row in enumerate(rows)
        if name in row.values
    )


def _over(name: str, row: Row) -> frozenset[str]:
    """`worst` is of all attacks that a network was judged under: another list of them makes another number."""
    return frozenset(row.values) if name == "worst" else frozenset()


def described(group: Sequence[Outcome]) -> tuple[str, str, str, str]:
    """The folder or folders, the method in full, the student, the seeds."""
    spec = group[0].spec
    method = " + ".join((f"{spec.method}: {spec.inner.name} > {spec.outer.name}", *(m.name for m in spec.modifiers)))
    return _label(group), method, spec.student.name, ",".join(str(o.spec.seed) for o in group)


def _label(group: Sequence[Outcome]) -> str:
    paths = [o.path for o in group]
    first, last = min(paths), max(paths)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first if len(paths) == 1 else first[:same] + "*"


def record(group: Sequence[Outcome], known: References) -> dict[str, Any]:
    """A group as one JSON object; accuracies in [0, 1]. `teacher` and `paper` are there where they are known."""
    spec = group[0].spec
    minus = {which: _row(1, group, which, known).minus_teacher for which in ("best", "last")}
    teacher = {"teacher": {"name": known.teacher, "accuracies": known.accuracies, "minus": minus}}
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
        "judged": [{k: v for k, v in o.judged.items() if k not in ("verdicts", "curves")} for o in group],
        "best": plain(averaged(group, "best")),
        "last": plain(averaged(group, "last")),
        **(teacher if known.accuracies else {}),
        **({"paper": plain(known.paper)} if known.paper else {}),
    }


def sources(rows: Sequence[Row], refer: Callable[[RunSpec], References]) -> list[str]:
    """Where the teachers' and the papers' numbers come from, in sentences."""
    known = [refer(r.group[0].spec) for r in rows]
    taught = [f"teacher {k.teacher}: as registered" for r, k in zip(rows, known, strict=True) if r.minus_teacher]
    papers = [f"paper: {k.paper.source}; {k.paper.protocol}" for k in known if k.paper]
    return list(dict.fromkeys([*taught, *papers]))
