"""What the records of a run must hold for `compare` and `report`: checked once, when they are read."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from robustdistill.errors import DamagedFile

Share = Annotated[float, Field(ge=0, le=1)]  # an accuracy
Finite = Annotated[float, Field(ge=-1e100, le=1e100)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Ends = Annotated[list[Finite], Field(min_length=2, max_length=2)]


class _Record(BaseModel):
    """A field with a default may be absent; one that is not named here may hold anything."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class _Epoch(_Record):
    test: dict[str, Finite]


class _Result(_Record):
    last: _Epoch
    best: _Epoch


class _Tested(_Record):
    __pydantic_extra__: dict[str, Finite]
    n: Finite


class _ShownEpoch(_Record):
    test: _Tested
    epoch: Count
    attack: str
    clean: Share
    robust: Share


class _ShownResult(_Record):
    selection: str
    last: _ShownEpoch
    best: _ShownEpoch


class _Params(_Record):
    over: list[str] = []


class _Stage(_Record):
    name: str
    accuracy: Share


class _Verdict(_Record):
    attack: str
    accuracy: Share
    per_class: list[Share | None] = []
    params: _Params = _Params()
    alarms: list[str] = []
    stages: list[_Stage] = []


class _Compared(_Verdict):
    eps: Finite = 0.0
    n: Count = 0
    interval95: Ends = [0.0, 1.0]


class _Shown(_Verdict):
    """What a report needs besides."""

    eps: Finite
    n: Count
    interval95: Ends


class _Point(_Record):
    curve: str
    attack: str
    accuracy: Share
    interval95: Ends
    eps: Finite
    steps: Count


class _Facts(_Record):
    data: str
    eps: Finite
    n: Count
    whole: bool
    alarms: list[str] = []
    curves: list[_Point] = []
    examples_sha256: str = ""


class _Evaluation(_Facts):
    verdicts: list[_Compared]


class _ShownEvaluation(_Facts):
    verdicts: list[_Shown]


class _Trained(_Record):
    event: Literal["trained"]
    epoch: Count
    loss: Finite | None
    lr: Finite | None


class _Evaluated(_Record):
    event: Literal["evaluated"]
    epoch: Count
    split: str
    attack: str
    clean: Share
    robust: Share


class _Warned(_Record):
    event: Literal["warned"]
    message: str


class _Other(_Record):
    event: str


def _kind(record: Any) -> str:
    event = record.get("event") if isinstance(record, dict) else None
    return event if event in ("trained", "evaluated", "warned") else "other"


_Event = Annotated[
    Annotated[_Trained, Tag("trained")]
    | Annotated[_Evaluated, Tag("evaluated")]
    | Annotated[_Warned, Tag("warned")]
    | Annotated[_Other, Tag("other")],
    Discriminator(_kind),
]


RESULT: TypeAdapter[Any] = TypeAdapter(_Result)  # for `compare`
EVALUATION: TypeAdapter[Any] = TypeAdapter(_Evaluation)
SHOWN_RESULT: TypeAdapter[Any] = TypeAdapter(_ShownResult)  # for `report`, which shows more
SHOWN_EVALUATION: TypeAdapter[Any] = TypeAdapter(_ShownEvaluation)
EVENTS: TypeAdapter[Any] = TypeAdapter(list[_Event])


def check(kind: TypeAdapter[Any], record: object, path: Path, mend: str) -> None:
    """DamagedFile if `record`, read from `path`, is not of its kind: it says where, and `mend` what to do."""
    try:
        kind.validate_python(record)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "its top"
        raise DamagedFile(f"{path} does not hold what it should at {place}; {mend}") from None
