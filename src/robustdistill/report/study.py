"""A study as one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

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

    def draw(self) -> Figure:
        """The figure itself."""
        return over_places(self.axis, self.places, self.groups, self.attack, self.kind)

    def file(self, form: str) -> bytes:
        """The figure as a file; `form` is svg or png."""
        return canvas.png(self.draw) if form == "png" else canvas.standalone(self.draw).encode()


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
    told = f"{title or name}: accuracy under {picture.attack} by {picture.axis}" if picture else ""
    figure = canvas.svg(picture.draw, "places", told) if picture else ""
    return template("study.html.jinja").render(
        name=name, title=title, about=about, state=state, table=table, notes=notes, figure=figure, spec=spec
    )
