"""A study as one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustdistill.report.figures import canvas
from robustdistill.report.figures.places import over_places
from robustdistill.report.numbers import Mean
from robustdistill.report.page import template
from robustdistill.report.tables import Table


@dataclass(frozen=True)
class Picture:
    """The study's figure: accuracy under `attack` over the `places` of `axis`, by group (see `over_places`)."""

    axis: str
    places: Sequence[str]
    groups: Mapping[str, Mapping[str, Mean]]
    attack: str
    kind: str

    def svg(self, title: str) -> str:
        """The figure as an element of the page."""
        draw = lambda: over_places(self.axis, self.places, self.groups, self.attack, self.kind)  # noqa: E731
        return canvas.svg(draw, "places", title)


def page(
    name: str,
    title: str,
    about: str,
    state: str,
    table: Table,
    notes: Sequence[str],
    picture: Picture | None,
    spec: str,
) -> str:
    """The page as HTML, every text in it escaped; it forbids itself scripts and the network."""
    figure = picture.svg(f"{title or name}: accuracy under {picture.attack} by {picture.axis}") if picture else ""
    return template("study.html.jinja").render(
        name=name, title=title, about=about, state=state, table=table, notes=notes, figure=figure, spec=spec
    )
