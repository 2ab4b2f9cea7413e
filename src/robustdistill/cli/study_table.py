"""A study's findings as a table in every format, as a page, and as a figure."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustdistill.cli import publishing, render, study_status
from robustdistill.cli.study_found import Found, found
from robustdistill.errors import UserError
from robustdistill.report.numbers import Mean, percent, radius, spread
from robustdistill.report.tables import Table, comma_separated, highest, latex, markdown
from robustdistill.store.atomic import write_atomic
from robustdistill.study.folder import Folder

if TYPE_CHECKING:
    from robustdistill.report.study import Picture

WRITERS = {"markdown": markdown, "latex": latex, "csv": comma_separated}


def show(folder: Folder, form: str, file: Path | None) -> None:
    """Writes the table, the page or the figure to `file`, or to stdout."""
    everything = found(folder)
    if file is None and form == "table":
        render.show(table(folder, everything))
        render.say([*notes(folder, everything), *_about(folder)])
        return
    content = _content(folder, everything, form)
    if file is not None:
        write_atomic(file, content)
        print(file)
    else:
        print(content, end="")
    if form in WRITERS:
        for note in (*notes(folder, everything), *_about(folder)):
            print(f"note: {note}", file=sys.stderr)


def _content(folder: Folder, everything: Sequence[Found], form: str) -> str | bytes:
    if form == "json":
        return "".join(publishing.line(record) for record in publishing.records(folder, everything))
    if form == "html":
        return _page(folder, everything)
    if form in ("svg", "png"):
        return _figure(folder, everything, form)
    return WRITERS.get(form, markdown)(table(folder, everything))


# ---- the table ----------------------------------------------------------------------------------------------
def table(folder: Folder, everything: Sequence[Found]) -> Table:
    """The places of the axes that go down, then for each that goes across the accuracies and the paper's."""
    across = folder.study.table.across
    down = [axis for axis in everything[0].places if axis not in across]
    columns = _columns(everything, across)
    rows: dict[tuple[str, ...], dict[tuple[str, ...], Found]] = {}
    for one in everything:
        rows.setdefault(tuple(one.places[a] for a in down), {})[tuple(one.places[a] for a in across)] = one
    names = [_heading(where, what, paper) for where, what, paper in columns]
    cells = [
        (*label, *(_cell(row.get(where), what, paper) for where, what, paper in columns)) for label, row in rows.items()
    ]
    seeds = [_seeds(row.values()) for row in rows.values()]
    full = tuple((*cell[: len(down)], s, *cell[len(down) :]) for cell, s in zip(cells, seeds, strict=True))
    return Table((*down, "seeds", *names), full, len(down) + 1, _bold(list(rows.values()), columns, len(down) + 1))


Column = tuple[tuple[str, ...], str, bool]
"""Places across, an attack, and whether the number is a paper's."""


def _columns(everything: Sequence[Found], across: Sequence[str]) -> list[Column]:
    wheres = list(dict.fromkeys(tuple(one.places[a] for a in across) for one in everything))
    attacks = list(dict.fromkeys(name for one in sorted(everything, key=lambda o: -len(o.best)) for name in one.best))
    made: list[Column] = []
    for where in wheres:
        here = [one for one in everything if tuple(one.places[a] for a in across) == where]
        made += [(where, name, False) for name in attacks]
        made += [(where, name, True) for name in attacks if any(name in _paper(one) for one in here)]
    return made


def _heading(where: tuple[str, ...], attack: str, paper: bool) -> str:
    return " ".join((*where, attack, *(["(paper)"] if paper else [])))


def _cell(one: Found | None, attack: str, paper: bool) -> str:
    if one is None:
        return "-"
    return percent(_paper(one).get(attack)) if paper else spread(one.best.get(attack))


def _paper(one: Found) -> Mapping[str, float]:
    return one.known.paper.accuracies if one.known.paper else {}


def _seeds(row: Any) -> str:
    counts = [(len(one.seeds), one.missing) for one in row]
    texts = dict.fromkeys(f"{done}" if not missing else f"{done} of {done + missing}" for done, missing in counts)
    return ", ".join(texts)


def _bold(
    rows: Sequence[Mapping[tuple[str, ...], Found]], columns: Sequence[Column], before: int
) -> frozenset[tuple[int, int]]:
    """The highest of each of our own columns, as written, among those of the same images and radius."""
    return highest(
        ((j, str(sorted(one.facts.items()))), round(100 * one.best[attack].mean, 2), (i, before + j))
        for j, (where, attack, paper) in enumerate(columns)
        for i, row in enumerate(rows)
        if not paper and (one := row.get(where)) is not None and attack in one.best
    )


# ---- what to read with it -----------------------------------------------------------------------------------
def notes(folder: Folder, everything: Sequence[Found]) -> Iterator[str]:
    """What the numbers are of, what is missing, and where the paper's come from."""
    facts = dict.fromkeys(_of(one.facts) for one in everything if one.facts)
    of = "; ".join(facts) or "nothing is done yet"
    yield f"Accuracy of the best epoch in %, mean ± standard deviation over seeds; {of}."
    selected = {one.spec.select.split for one in everything if one.spec and one.seeds}
    if selected == {"test"}:
        yield "The best epoch was selected on the test images, as the paper does."
    missing = sum(one.missing for one in everything)
    if missing:
        yield f"{missing} runs are not done: robustdistill study status {folder.path}"
    papers = [f"paper: {one.known.paper.source}; {one.known.paper.protocol}" for one in everything if one.known.paper]
    yield from dict.fromkeys(papers)
    if folder.study.source:
        yield f"After: {folder.study.source}."


def _about(folder: Folder) -> list[str]:
    """What the study says of itself; its page has that elsewhere."""
    return [folder.study.about] if folder.study.about else []


def _of(facts: Mapping[str, Any]) -> str:
    first = "" if facts.get("whole", True) else "the first "
    return f"{first}{facts['n']:,} test images of {facts['data']}, eps {radius(facts['eps'])}"


# ---- the page and its figure --------------------------------------------------------------------------------
def _page(folder: Folder, everything: Sequence[Found]) -> str:
    from robustdistill.report.study import page

    study, state = folder.study, study_status.summary(study_status.Looker(folder).records())
    made, told, picture = table(folder, everything), list(notes(folder, everything)), _picture(folder, everything)
    return page(study.called, study.title, study.about, state, made, told, picture, study.to_toml())


def _figure(folder: Folder, everything: Sequence[Found], form: str) -> bytes:
    picture = _picture(folder, everything)
    if picture is None:
        raise UserError(f'study {folder.study.called!r} has no figure; give it a [plot] with x = "AXIS" and an attack')
    return picture.file(form)


def _picture(folder: Folder, everything: Sequence[Found]) -> "Picture | None":
    """The study's figure; what is on neither of its axes gets a line or bars of its own."""
    from robustdistill.report.study import Picture

    plot = folder.study.plot
    if plot is None:
        return None
    groups: dict[str, dict[str, Mean]] = {}
    for one in everything:
        others = [place for axis, place in one.places.items() if axis not in (plot.x, plot.each)]
        name = ", ".join([*([one.places[plot.each]] if plot.each else []), *others]) or folder.study.called
        if plot.attack in one.best:
            groups.setdefault(name, {})[one.places[plot.x]] = one.best[plot.attack]
    places = list(dict.fromkeys(one.places[plot.x] for one in everything))
    return Picture(plot.x, places, groups, plot.attack, plot.kind)
