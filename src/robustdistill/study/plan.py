"""A study as data: a base spec, the axes along which its runs differ, how they are judged and tabulated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustdistill.errors import UserError, nearest
from robustdistill.quantities import Number, Whole
from robustdistill.resolve import merge_all, normal
from robustdistill.spec import load_layer
from robustdistill.wording import sentences

SEED = "seed"
Scalar = str | int | float | bool
Value = Scalar | dict[str, Any]
"""A place on an axis: a value of the spec's key that the axis is named after, or a layer of a spec and its `label`."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Judging(_Table):
    """Under which attacks each run's best epoch is judged, on how many test images (all), within which radius (the
    run's own), and how many images go through the network at once.
    """

    attacks: Annotated[tuple[str, ...], Field(min_length=1)] = ("fgsm", "pgd", "pgd-trades", "cw")
    n: Annotated[Whole, Field(ge=1)] | None = None
    eps: Annotated[Number, Field(gt=0, lt=1)] | None = None
    batch_size: Annotated[Whole, Field(ge=1)] = 250


class Layout(_Table):
    """Which axes go across the table; the seeds are averaged, and all other axes go down.

    `paper` puts a paper's numbers beside ours where it has some; not where ours are of other images under its name.
    """

    across: tuple[str, ...] = ()
    paper: bool = True


class Plot(_Table):
    """A figure: accuracy under `attack` over the places of axis `x`, one line or group of bars a place of `each`."""

    x: str
    attack: str
    each: str = ""
    kind: Literal["lines", "bars"] = "lines"


class Profile(_Table):
    """Another size of the same study: `base` goes over the study's, and each part that is named takes its place."""

    title: str = ""
    about: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, tuple[Value, ...]] | None = None
    skip: tuple[dict[str, Scalar], ...] | None = None
    judge: Judging | None = None
    table: Layout | None = None
    plot: Plot | None = None


class Study(_Table):
    """Everything of a study. Runs of studies with the same `folder` (by default a study's own name) are shared.

    `skip` leaves out the runs that stand at all places of one of its entries.
    """

    name: Annotated[str, Field(pattern=NAME)]
    title: str = ""
    about: str = ""
    source: str = ""
    folder: Annotated[str, Field(pattern=NAME)] | None = None
    base: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, tuple[Value, ...]]
    skip: tuple[dict[str, Scalar], ...] = ()
    judge: Judging = Judging()
    table: Layout = Layout()
    plot: Plot | None = None
    profile: str = ""
    profiles: dict[str, Profile] = Field(default_factory=dict)

    @field_validator("axes")
    @classmethod
    def _places(cls, axes: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        for name, places in axes.items():
            labels = [label(place, name) for place in places]
            if not labels:
                raise ValueError(f"axis {name!r} has no places; give it some, or leave it out")
            if twice := [text for text in labels if labels.count(text) > 1]:
                raise ValueError(f"axis {name!r} has two places called {twice[0]!r}; give each its own label")
        return axes

    @property
    def called(self) -> str:
        """The name with the profile's, which its runs, tables and files go by."""
        return f"{self.name}-{self.profile}" if self.profile else self.name

    def to_toml(self) -> str:
        """The study as TOML that `load_study` reads back to an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True, exclude_defaults=True))


def label(place: Value, axis: str) -> str:
    """What a place on an axis is called."""
    if not isinstance(place, Mapping):
        return str(place)
    if not isinstance(place.get("label"), str) or not place["label"]:
        raise ValueError(f'axis {axis!r}: a table among its places needs a name for tables, label = "..."')
    return str(place["label"])


def load_study(path: Path, profile: str = "") -> Study:
    """The study in a TOML file, in one of its profiles ("": as it is). UserError for what is none.

    Raises DamagedFile for what is no TOML.
    """
    return profiled(study_of(load_layer(path), str(path)), profile)


def study_of(content: Mapping[str, Any], where: str = "") -> Study:
    """The study that a table describes; `where` it stands begins the sentence on what is wrong."""
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {sentences(error, '', Study)}" if where else sentences(error, "", Study)) from None
    for one in (study, *(profiled(study, name) for name in study.profiles)):
        _check_axes(one, where)
    return study


def profiled(study: Study, name: str) -> Study:
    """The study in its profile `name`: that one's parts in the place of its own."""
    if not name:
        return study
    if name not in study.profiles:
        raise UserError(f"study {study.name!r} has no profile {name!r}{nearest(name, study.profiles)}")
    own = study.profiles[name]
    parts = {key: value for key in PARTS if (value := getattr(own, key))}
    base = merge_all([normal(study.base), normal(own.base)])
    folder = f"{study.folder or study.name}-{name}"
    return study.model_copy(update={**parts, "base": base, "folder": folder, "profile": name, "profiles": {}})


PARTS = ("title", "about", "axes", "skip", "judge", "table", "plot")


def _check_axes(study: Study, where: str) -> None:
    """UserError where a study speaks of an axis, or of a place on one, that it does not have."""
    places = {axis: [label(place, axis) for place in values] for axis, values in study.axes.items()}
    plot = (study.plot.x, *([study.plot.each] if study.plot.each else [])) if study.plot else ()
    what = f"{where}: study {study.called!r}" if where else f"study {study.called!r}"
    for axis in (*study.table.across, *plot, *(axis for entry in study.skip for axis in entry)):
        if axis not in places:
            raise UserError(f"{what} names the axis {axis!r}, which it does not have{nearest(axis, places)}")
    for axis, place in (item for entry in study.skip for item in entry.items()):
        if str(place) not in places[axis]:
            raise UserError(
                f"{what} skips {axis} = {place!r}, which is no place there{nearest(str(place), places[axis])}"
            )
    if study.plot and study.plot.attack not in ("clean", "worst", *study.judge.attacks):
        raise UserError(f"{what} plots {study.plot.attack!r}, under which nothing is judged")
