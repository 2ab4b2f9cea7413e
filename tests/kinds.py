"""The table of files that are read: which command reads each, what may have happened to it, what is said then.

docs/reliability.md quotes its size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile import BYTES
from robustdistill.data.sources import cifar10
from robustdistill.errors import RobustDistillError
from robustdistill.store import checkpoint
from test_cli import rd as command

SPEC: dict[str, Any] = {
    "method": "nature",
    "epochs": 2,
    "limit_batches": 2,
    "batch_size": 16,
    "student": {"name": "digits-net", "width": 4},
    "select": {"n": 20, "attack": "fgsm"},
    "average": "ema",
    "device": "cpu",
}
QUICK = ("--attacks", "fgsm", "--n", "20", "--device", "cpu")
Told = tuple[int, str]  # exit code, sentences


def cli(*args: str) -> Callable[[], Told]:
    def call() -> Told:
        done = command(*args)
        return done.code, done.err

    return call


def python(fn: Callable[[], object]) -> Told:
    try:
        fn()
    except RobustDistillError as error:
        return error.exit_code, str(error)
    return 0, ""


def newest() -> Path:
    root = Path("run/checkpoints")
    return root / str(checkpoint.noted(root, "latest"))


def shards() -> Told:
    return python(lambda: cifar10(Path("files/parquet")))


def batches() -> Told:
    return python(lambda: cifar10(Path("files/cifar-10-batches-py")))


EVAL = cli("eval", "run", *QUICK, "--checks", "0")
RESUME = cli("train", "--resume", "run")
COMPARE, REPORT = cli("compare", "run"), cli("report", "run")
TEXT = [*BYTES]
BINARY = ["flipped", "cut", "empty", "page", "program", "zeros"]
ODD = ["folder", "pipe"]


@dataclass(frozen=True)
class Kind:
    """A file, the command that reads it, the faults, and what that says: `code` and `words` unless `but` says else."""

    path: str
    reads: Callable[[], Told]
    faults: list[str]
    words: str
    code: int = 4
    but: dict[str, Told] = field(default_factory=dict)


BEST = "run/checkpoints/epoch-000{}"
MISSING: dict[str, Told] = {"missing": (4, "is missing")}
NO_JSON = "is missing or not a JSON object"
FLIPPED: dict[str, Told] = {"flipped": (4, "result.json")}
FOLDER: dict[str, Told] = {"folder": (2, "is a directory"), "pipe": (2, "it is no regular file")}
WEIGHTS: dict[str, Told] = {
    "empty": (4, "is empty"),
    "page": (4, "is a web page, not weights"),
    "program": (4, "was refused and nothing in it was executed"),
    "missing": (2, "no such file"),
    **FOLDER,
}
JUDGED = WEIGHTS | {"folder": (2, "is not a run directory"), "missing": (2, "there is no run or file")}
EVERYTHING = [*TEXT, *ODD, "missing"]
KINDS = {
    "a run's spec": Kind("run/spec.toml", EVAL, [*TEXT], "run/spec.toml is not readable TOML", but={
        "flipped": (4, "run/spec.toml is no"), "cut": (4, "run/spec.toml is no"), "empty": (4, "is no whole spec"),
        "missing": (2, "is not a run directory"), "folder": (2, "is not a run directory"),
    }),
    "environment": Kind("run/environment.json", RESUME, EVERYTHING, NO_JSON, but={"flipped": (4, "environment.json")}),
    "environment, when a student is judged": Kind(
        "run/environment.json", EVAL, [*TEXT, *ODD], NO_JSON, but={"flipped": (4, "environment.json")}
    ),
    "event log, resumed": Kind("run/events.jsonl", RESUME, BINARY, "is not as this run wrote it", 0),
    "event log, reported": Kind("run/events.jsonl", REPORT, [*TEXT], "events.jsonl is not a JSON object", but={
        "flipped": (4, "events.jsonl"), "cut": (4, "events.jsonl was altered"),
        "empty": (4, "events.jsonl was altered"), "program": (4, "events.jsonl"),
        "zeros": (4, "events.jsonl was altered"),
    }),
    "result, compared": Kind("run/result.json", COMPARE, [*TEXT, *ODD], NO_JSON, but=FLIPPED),
    "result, reported": Kind("run/result.json", REPORT, [*TEXT, *ODD], NO_JSON, but=FLIPPED),
    "verdicts, compared": Kind(
        "run/evaluation.json", COMPARE, [*TEXT, *ODD], NO_JSON, but={"flipped": (4, "evaluation.json")}
    ),
    "verdicts, reported": Kind(
        "run/evaluation.json", REPORT, [*TEXT, *ODD], NO_JSON, but={"flipped": (4, "evaluation.json")}
    ),
    "images for the eye": Kind(
        "run/examples.safetensors", REPORT, [*BINARY, *ODD], "examples.safetensors holds no example images"
    ),
    "lock": Kind("run/lock", RESUME, [*TEXT, *ODD], "its lock does not say by whom", 2),
    "pointer to the best": Kind("run/checkpoints/best", EVAL, [*TEXT], "best does not hold a checkpoint's name", but={
        "cut": (2, "There is no checkpoint"),
    }),
    "pointer to the latest": Kind(
        "run/checkpoints/latest", RESUME, [*TEXT], "latest does not hold a checkpoint's name", 0,
        but={"cut": (0, "There is no checkpoint")},
    ),
    "manifest": Kind("{best}/manifest.json", EVAL, [*TEXT], "manifest.json is not JSON", but={
        "flipped": (4, "manifest.json"), "folder": (4, "is missing"), "pipe": (4, "is missing"),
    }),
    "student": Kind("{best}/student.safetensors", EVAL, [*BINARY, *ODD, "missing"], "student.safetensors has", but={
        "flipped": (4, "student.safetensors was altered"), "zeros": (4, "student.safetensors was altered"), **MISSING,
        "folder": (4, "student.safetensors is no file"), "pipe": (4, "student.safetensors is no file"),
    }),
    "average": Kind("{best}/average.safetensors", EVAL, [*BINARY, *ODD, "missing"], "average.safetensors has", but={
        "flipped": (4, "average.safetensors was altered"), "zeros": (4, "average.safetensors was altered"), **MISSING,
        "folder": (4, "average.safetensors is no file"), "pipe": (4, "average.safetensors is no file"),
    }),
    "state, resumed from another": Kind("{latest}/state.pt", RESUME, [*BINARY, *ODD, "missing"], "state.pt", 0),
    "state, resumed from": Kind(
        "{latest}/state.pt", lambda: cli("train", "--resume", str(newest()))(), [*BINARY, *ODD, "missing"], "state.pt"
    ),
    "weights, safetensors": Kind(
        "files/safe.safetensors", cli("eval", "files/safe.safetensors"), [*BINARY[1:], *ODD, "missing"],
        "is truncated or garbled", but=JUDGED,
    ),
    "weights, torch's archive": Kind(
        "files/zip.pt", cli("eval", "files/zip.pt"), [*BINARY, *ODD, "missing"], "is truncated or garbled",
        but=JUDGED | {"flipped": (4, "does not match its checksum")},
    ),
    "weights, torch's old format": Kind(
        "files/old.pt", cli("eval", "files/old.pt"), [*BINARY[1:], *ODD, "missing"], "is truncated or garbled",
        but=JUDGED,
    ),
    "weights, a plain pickle": Kind(
        "files/plain.pkl", cli("eval", "files/plain.pkl"), [*BINARY[1:], *ODD, "missing"],
        "is truncated or garbled", but=JUDGED | {"missing": (2, "plain.pkl"), "cut": (4, "nothing in it was executed")},
    ),
    "weights, as a teacher": Kind(
        "files/zip.pt", cli("train", "--teacher", "files/zip.pt"), [*BINARY, *ODD, "missing"],
        "is truncated or garbled", but=WEIGHTS | {"flipped": (4, "does not match its checksum")},
    ),
    "weights, imported": Kind(
        "files/zip.pt", cli("import-teacher", "files/zip.pt"), [*BINARY, *ODD, "missing"],
        "is truncated or garbled", but=WEIGHTS | {"flipped": (4, "does not match its checksum")},
    ),
    "spec": Kind(
        "files/spec.toml", cli("train", "-c", "files/spec.toml", "--print-spec"), [*TEXT[2:], "folder", "missing"],
        "files/spec.toml is not readable TOML",
        but={"empty": (0, ""), "folder": (2, "is a folder"), "missing": (2, "there is no spec file")},
    ),
    "baseline": Kind(
        "files/loop.py", cli("bench", "--baseline", "files/loop.py", "--seconds", "0"),
        ["empty", "page", "not UTF-8", "folder", "missing"], "loop.py cannot be run as Python", 2,
        but={"empty": (2, "has no function `epoch`"), "folder": (2, "there is no file"),
             "missing": (2, "there is no file")},
    ),
    "images, parquet": Kind(
        "files/parquet/train-00000-of-00001.parquet", shards, [*BINARY, *ODD, "missing"],
        "train-00000-of-00001.parquet", but={"missing": (2, "holds no CIFAR-10")},
    ),
    "images, torchvision's batches": Kind(
        "files/cifar-10-batches-py/data_batch_2", batches, [*BINARY[1:], *ODD, "missing"], "data_batch_2",
        but={"program": (4, "nothing of it was run"), "missing": (2, "lacks data_batch_2"),
             "folder": (2, "lacks data_batch_2"), "pipe": (2, "lacks data_batch_2")},
    ),
}  # fmt: skip
CASES = [(name, fault) for name, kind in KINDS.items() for fault in kind.faults]
