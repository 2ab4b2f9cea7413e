"""What the records of a run must hold for `compare` and `report`: checked once, when they are read."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from robustdistill.errors import DamagedFile

CONFIG = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")
Share = Annotated[float, Field(ge=0, le=1)]  # an accuracy
Finite = Annotated[float, Field(ge=-1e100, le=1e100)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Ends = Annotated[list[Finite], Field(min_length=2, max_length=2)]


class _Epoch(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    test: dict[str, Finite]


class _Result(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    last: _Epoch
    best: _Epoch


def _counted(test: dict[str, float]) -> dict[str, float]:
    if "n" not in test:
        raise ValueError("n is missing")
    return test


class _ShownEpoch(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    test: Annotated[dict[str, Finite], AfterValidator(_counted)]
    epoch: Count
    attack: str
    clean: Share | None
    robust: Share | None


class _ShownResult(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    selection: str
    last: _ShownEpoch
    best: _ShownEpoch


class _Params(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    over: NotRequired[list[str]]


class _Stage(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    name: str
    accuracy: Share


class _Verdict(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    attack: str
    accuracy: Share
    per_class: NotRequired[list[Share | None]]
    params: NotRequired[_Params]
    alarms: NotRequired[list[str]]
    stages: NotRequired[list[_Stage]]


class _Compared(_Verdict):
    eps: NotRequired[Finite]
    n: NotRequired[Count]
    interval95: NotRequired[Ends]


class _Shown(_Verdict):
    """What a report needs besides."""

    eps: Finite
    n: Count
    interval95: Ends


class _Point(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    curve: str
    attack: str
    accuracy: Share
    interval95: Ends
    eps: Finite
    steps: Count


class _Facts(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    data: NotRequired[str]
    eps: NotRequired[Finite]
    n: NotRequired[Count]
    whole: NotRequired[bool]
    alarms: NotRequired[list[str]]
    curves: NotRequired[list[_Point]]
    examples_sha256: NotRequired[str]


class _Evaluation(_Facts):
    verdicts: list[_Compared]


class _ShownEvaluation(_Facts):
    verdicts: list[_Shown]


class _Trained(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    event: Literal["trained"]
    epoch: Count
    loss: Finite | None
    lr: Finite | None


class _Evaluated(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    event: Literal["evaluated"]
    epoch: Count
    split: str
    attack: str
    clean: Share | None
    robust: Share | None


class _Warned(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
    event: Literal["warned"]
    message: str


class _Other(TypedDict):
    __pydantic_config__ = CONFIG  # type: ignore[misc]
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
