"""A study's findings as flat JSON, one record a combination of places: what published numbers are made from."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustdistill.cli.study_found import Found, found
from robustdistill.errors import UserError
from robustdistill.report.numbers import Mean
from robustdistill.store.plain import dumps, plain
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item


def publish(folder: Folder, into: Path) -> list[Path]:
    """Writes a file for each finished row into a folder named after the study; UserError while a run is missing."""
    from robustdistill.store.atomic import write_atomic

    everything = found(folder)
    if lacking := sum(one.missing for one in everything):
        raise UserError(f"{lacking} runs of study {folder.study.called!r} are not done; only whole rows are published")
    here, files = into / folder.study.called, []
    here.mkdir(parents=True, exist_ok=True)
    for record, one in zip(records(folder, everything), everything, strict=True):
        files.append(here / f"{_slug('-'.join(one.places.values()))}.json")
        write_atomic(files[-1], dumps(record))
    for left in sorted(set(here.glob("*.json")) - set(files)):  # of an earlier form of the study
        left.unlink()
    return files


def records(folder: Folder, everything: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """One flat record a row: where it stands, what it is of, where it ran, and its accuracies in [0, 1]."""
    for i, one in enumerate(everything):
        yield plain(
            {
                "study": folder.study.called,
                "title": folder.study.title,
                "row": i,
                **{f"place.{axis}": place for axis, place in one.places.items()},
                "seeds": list(one.seeds),
                **one.facts,
                **_made(folder, one.done),
                **_numbers("best", one.best),
                **_numbers("last", one.last),
            }
        )


def line(record: Mapping[str, Any]) -> str:
    """A record as one line."""
    return json.dumps(record, allow_nan=False) + "\n"


def _numbers(epoch: str, means: Mapping[str, Mean]) -> dict[str, Any]:
    """`best.clean` and, of several seeds, `best.clean.std`."""
    made: dict[str, Any] = {}
    for name, m in means.items():
        made |= {f"{epoch}.{name}": m.mean} | ({f"{epoch}.{name}.std": m.std} if m.std is not None else {})
    return made


def _made(folder: Folder, done: Sequence[Item]) -> dict[str, Any]:
    """With what, and on which devices, the runs were made; the hash of each one's spec, in the order of the seeds."""
    told = [_environment(folder, item) for item in done]
    both = {key: sorted({str(t[key]) for t in told if t.get(key)}) for key in ("device_name", "torch", "precision")}
    versions = sorted({str(t.get("packages", {}).get("robustdistill", "")) for t in told} - {""})
    specs = [item.spec.hash() if item.spec else item.id for item in done]
    days = sorted({str(t.get("created", ""))[:10] for t in told} - {""})
    return {"specs": specs, "robustdistill": versions, **both, "days": days}


def _environment(folder: Folder, item: Item) -> Mapping[str, Any]:
    if item.spec is not None:
        return folder.run(item).read_environment()
    made: Mapping[str, Any] = folder.judged(item).get("environment", {})
    return made


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.@]+", "-", text).strip("-").lower() or "all"
