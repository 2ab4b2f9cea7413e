"""A study small enough for tests: runs of two epochs of two steps on the digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from robustdistill.registry import default_registry
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item, distinct, items
from robustdistill.study.plan import Study, study_of
from robustdistill.study.work import Worker

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "Two methods & two seeds",
    "base": {
        "data": "digits",
        "epochs": 2,
        "limit_batches": 2,
        "batch_size": 16,
        "student": {"name": "digits-net", "width": 4},
        "select": {"n": 20, "attack": "fgsm"},
        "attack": {"steps": 2, "step": "eps/2"},
        "device": "cpu",
    },
    "axes": {"method": ["sat", "rslad"], "seed": [0, 1]},
    "judge": {"attacks": ["fgsm"], "n": 30},
    "plot": {"x": "method", "attack": "fgsm", "kind": "bars"},
}
START = "2026-01-01T00:00:00.000+00:00"


def study(**changes: Any) -> Study:
    return study_of(TINY | changes)


def folder(path: Path, **changes: Any) -> Folder:
    made = Folder(path, study(**changes))
    made.begin()
    return made


def found(folder: Folder) -> list[Item]:
    return distinct(items(folder.study, default_registry()))


def written(path: Path, **changes: Any) -> Path:
    path.write_text(tomli_w.dumps(TINY | changes))
    return path


def lost() -> None:
    raise AssertionError("no lease is lost here")


def worker(folder: Folder, tell: Callable[..., Any] | None = None, **changes: Any) -> Worker:
    given: dict[str, Any] = {"explain": lambda error: (getattr(error, "exit_code", 1), str(error)), "lost": lost}
    given |= {"tell": tell} if tell else {}
    return Worker(folder, found(folder), default_registry(), changes.pop("since", START), **(given | changes))
