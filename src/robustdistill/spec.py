"""The specification of a run: one frozen tree of plain values, read from TOML and written back to it.

Knows names, not what they mean: `resolve` checks them against the registry and fills in the defaults.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustdistill.errors import DamagedFile, UserError
from robustdistill.outside import DEEPEST, from_toml
from robustdistill.quantities import Number, Whole, no_radius, parse_number
from robustdistill.wording import sentences


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Node(BaseModel):
    """A named unit and its parameters, flat: `{name = "mmard", alpha = 1.0}`. None is the same as not given, and a
    tuple as a list: TOML has neither.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items() if v is not None}

    @property
    def params(self) -> dict[str, Any]:
        """All but the name."""
        return dict(self.model_extra or {})


class AugmentSpec(_Table):
    """Random crop after zero-padding by `pad` pixels, and horizontal flip."""

    pad: Annotated[Whole, Field(ge=0)]
    flip: bool


class ExtraSpec(_Table):
    """More images to learn from: an archive in the layout of DM-Improves-AT, and its share of every batch."""

    file: str
    share: Annotated[Number, Field(gt=0, lt=1)] = 0.7


class DataSpec(_Table):
    """A data set by name, and the folder that holds it where it is not inside the package."""

    name: str
    dir: str | None = None
    augment: AugmentSpec
    extra: ExtraSpec | None = None


class Optim(_Table):
    """SGD, as in every ARD paper."""

    lr: Annotated[Number, Field(gt=0)] = 0.1
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[Number, Field(ge=0)] = 2e-4
    nesterov: bool = False

    @model_validator(mode="after")
    def _moving(self) -> "Optim":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; set optim.momentum too")
        return self


class Schedule(_Table):
    """The learning rate by epoch: cosine to 0, constant, or multiplied by `gamma` at each milestone.

    It spans `epochs`, by default those of the run; a run that has fewer ends in the middle of it.
    """

    name: Literal["cosine", "multistep", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: Annotated[Number, Field(gt=0, le=1)] = 0.1
    epochs: Annotated[Whole, Field(ge=1)] | None = None

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted(set(milestones)) or any(m < 0 for m in milestones):
            raise ValueError("milestones are epochs from 0 on, each later than the one before")
        return milestones


class Average(_Table):
    """Averages of the student's weights: `ema` every step with `decay`, `swa` every epoch from `start` on."""

    name: Literal["none", "ema", "swa"] = "none"
    decay: Annotated[Number, Field(gt=0, lt=1)] = 0.999
    start: Annotated[Number, Field(ge=0, lt=1)] = 0.5


class Select(_Table):
    """The best epoch: by robust accuracy under `attack` on `split`, judged every `every` epochs."""

    split: Literal["holdout", "test"] = "holdout"
    attack: str = "pgd-trades"
    every: Annotated[Whole, Field(ge=1)] = 1
    n: Annotated[Whole, Field(ge=1)] | None = None


class RunSpec(_Table):
    """Everything that decides a run. Epochs and milestones count from 0; eps is the L-inf radius in [0, 1].

    `limit_batches` makes a trial of it: no epoch and no evaluation sees more than so many batches, and there
    is one epoch unless `epochs` is given too.
    """

    method: str
    seed: Whole = 0
    eps: Annotated[Number, Field(gt=0, lt=1)]
    norm: Literal["linf"] = "linf"
    data: DataSpec
    student: Node
    teachers: dict[str, Node] = Field(default_factory=dict)
    inner: Node
    attack: Node
    attack_bn: Literal["eval", "train", "train_frozen_stats"] = "eval"
    outer: Node
    modifiers: tuple[Node, ...] = Field(default=(), alias="with")
    epochs: Annotated[Whole, Field(ge=1)]
    batch_size: Annotated[Whole, Field(ge=1)]
    limit_batches: Annotated[Whole, Field(ge=1)] | None = None
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    average: Average = Average()
    select: Select = Select()
    device: str = "auto"
    mode: Literal["auto", "eager", "compile", "graph"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    on_nonfinite: Literal["stop", "skip"] = "stop"
    save_minutes: Annotated[Number, Field(ge=0)] = 10.0
    deterministic: bool = False
    sync_bn: bool = False

    @model_validator(mode="before")
    @classmethod
    def _radius_in_pixels_of_one(cls, data: Any) -> Any:
        try:
            eps = float(parse_number(data["eps"]))
        except (KeyError, TypeError, ValueError):  # missing or no number: the field says so
            return data
        if eps >= 1:
            raise UserError(no_radius(eps))
        return data

    @model_validator(mode="after")
    def _within_its_schedule(self) -> "RunSpec":
        if self.span < self.epochs:
            raise ValueError(f"schedule.epochs = {self.span} ends before the run of {self.epochs} epochs; raise it")
        return self

    @property
    def span(self) -> int:
        """The epochs of the schedule, and of all else that moves with the epochs: the run's own, or more."""
        return self.schedule.epochs or self.epochs

    def to_toml(self) -> str:
        """The spec as TOML that `from_layer(load_layer(...))` reads back to an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def hash(self) -> str:
        """A short stable name of what decides the results.

        Left out: device, mode, saving, the folders of the data, and whether kernels must be deterministic.
        """
        left_out: dict[str, Any] = dict.fromkeys(("device", "mode", "save_minutes", "deterministic"), True)
        left_out["data"] = {"dir"}
        if not self.sync_bn:  # this and the next: specs from before there were these keys keep their name
            left_out["sync_bn"] = True
        if self.schedule.epochs is None:
            left_out["schedule"] = {"epochs"}
        plain = self.model_dump(mode="json", exclude=left_out)
        if extra := plain["data"].pop("extra"):
            plain["data"]["extra"] = extra | {"file": Path(extra["file"]).name}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def from_layer(layer: Mapping[str, Any]) -> RunSpec:
    """The spec that a complete layer describes; a UserError says what is wrong and where."""
    try:
        return RunSpec.model_validate(layer)
    except ValidationError as error:
        raise UserError(sentences(error, "", RunSpec)) from None


def load_layer(path: Path) -> dict[str, Any]:
    """A spec file (TOML) as a layer: it may name any part of a spec and leave out the rest."""
    try:
        return from_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no spec file {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a spec file; a run's is {path / 'spec.toml'}") from None
    except ValueError as error:
        raise DamagedFile(f"{path} is not readable TOML: {error}") from None


def set_layer(assignments: Iterable[str]) -> dict[str, Any]:
    """`--set a.b=v`, any number of them, as a layer. Values are TOML; what is no TOML is a string."""
    layer: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        *parents, leaf = (part.strip() for part in path.split("."))
        if not equals or not all([*parents, leaf]) or len(parents) > DEEPEST:
            raise UserError(f"--set {assignment!r} is no assignment; write --set outer.alpha=0.5")
        node = layer
        for parent in parents:
            node = _table(node, parent, assignment)
        node[leaf] = _value(text.strip())
    return layer


def _table(node: dict[str, Any], key: str, assignment: str) -> dict[str, Any]:
    """The table at `key`, made where there is none; `outer = "rslad"` becomes `outer = {name = "rslad"}`."""
    if isinstance(node.get(key), str):
        node[key] = {"name": node[key]}
    table: Any = node.setdefault(key, {})
    if not isinstance(table, dict):
        raise UserError(f"--set {assignment!r}: {key} was set to {table!r} before, which has no parts")
    return table


def _value(text: str) -> Any:
    try:
        return from_toml(f"v = {text}")["v"]
    except ValueError:
        return text
