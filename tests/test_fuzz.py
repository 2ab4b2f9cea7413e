"""Readers under random bytes: each ends in what was written, or in a sentence of ours; never in anything else.

ROBUSTDISTILL_FUZZ says how many cases in all; `make test-faults` takes 10,000.
"""

import contextlib
import io
import json
import os
import shutil
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import robustdistill as rd
from kinds import QUICK, SPEC
from robustdistill import assemble
from robustdistill.builtin.models import digits_net
from robustdistill.cli.gather import gather
from robustdistill.cli.outcomes import outcome
from robustdistill.data import cache
from robustdistill.data.sources import cifar10
from robustdistill.errors import DamagedFile, RobustDistillError, UserError
from robustdistill.registry import default_registry
from robustdistill.report import words
from robustdistill.report.gallery import pictures
from robustdistill.report.page import _flat, _rows, page
from robustdistill.resolve import resolve
from robustdistill.spec import RunSpec, from_layer, load_layer, set_layer
from robustdistill.store import checkpoint, lock, rundir, sealed
from robustdistill.store.partial import Partial
from robustdistill.store.plain import dumps
from robustdistill.store.weights import as_bytes, read_weights
from robustdistill.stored import find_checkpoint
from test_cli import rd as command
from test_data import TEST, TRAIN, write_batches, write_parquet
from test_run import same
from test_spec import specs

CASES = int(os.environ.get("ROBUSTDISTILL_FUZZ", "400"))
SHARES = {  # of a hundred
    "spec": 12, "set": 10, "round trip": 5, "weights": 18, "checkpoint": 12, "manifest": 4, "records": 8,
    "sealed records": 8, "parts": 6, "cache": 3, "parquet": 4, "batches": 3, "lock": 7,
}  # fmt: skip
RAN: Counter[str] = Counter()
REGISTRY = default_registry()


def fuzz(name: str) -> Callable[[Any], Any]:
    """The share of the cases that a reader gets."""
    most = max(1, CASES * SHARES[name] // 100)
    return settings(max_examples=most, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    began = time.monotonic()
    yield
    each = ", ".join(f"{name} {RAN[name]:,}" for name in SHARES)
    print(f"\n{sum(RAN.values()):,} cases in {time.monotonic() - began:.0f} s: {each}")


# ---- what is mutated ----------------------------------------------------------------------------------------
ops = st.tuples(st.sampled_from(["flip", "cut", "drop", "insert", "write", "copy"]), st.floats(0, 0.999), st.binary())
mutations = st.lists(ops, min_size=1, max_size=3)


def mutated(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, some in changes:
        at, n = int(where * len(content)), len(some)
        match kind:
            case "flip" if content:
                content = content[:at] + bytes([content[at] ^ (1 << n % 8)]) + content[at + 1 :]
            case "cut":
                content = content[:at]
            case "drop":
                content = content[:at] + content[at + n + 1 :]
            case "insert":
                content = content[:at] + some + content[at:]
            case "write":
                content = content[:at] + some + content[at + n :]
            case "copy":
                content = content[:at] + content[at // 2 : at] + content[at:]
    return content


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([10**400, -1, 1e308])
)
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))


def replaced(value: Any, path: list[int], new: Any) -> Any:
    """A tree of plain values with a part of it, which the numbers of `path` lead to, replaced or (None) left out."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys = sorted(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    made = value.copy()
    if len(path) == 1 and new is None and isinstance(made, dict):
        del made[key]
    else:
        made[key] = replaced(value[key], path[1:], new)
    return made


paths = st.lists(st.integers(0, 30), min_size=1, max_size=5)


@contextlib.contextmanager
def spoilt(path: Path, content: bytes) -> Iterator[None]:
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(good)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTDISTILL_PLUGINS", "")
        list(rd.train(SPEC, out=path / "run"))
        assert command("eval", path / "run", *QUICK, "--checks", "8").code == 0
    write_batches(path / "cifar-10-batches-py")
    for name, images in (("train", TRAIN[:20]), ("test", TEST)):
        write_parquet(path / "parquet" / f"{name}-00000-of-00001.parquet", images)
    return path


# ---- the spec -----------------------------------------------------------------------------------------------
VALID = [resolve([{"method": m}], REGISTRY).to_toml().encode() for m in ("mmard", "trades", "mtard")]
SHORT = [b"method = 'mmard'\nwith = ['awp']\n[outer]\nalpha = 0.5\n[attack]\nsteps = 3\nstep = 'eps/2'\n"]
KEYS = [*RunSpec.model_fields, "with", "teacher", "name", "alpha", "steps", "step", "augment", "pad"]
trees = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), values, max_size=4)


def settled(layer: dict[str, Any]) -> None:
    with contextlib.suppress(UserError):
        spec = resolve([layer], REGISTRY)
        assert from_layer(tomllib.loads(spec.to_toml())) == spec


@fuzz("spec")
@given(st.data())
def test_specs(home: Path, data: st.DataObject) -> None:
    path = home / "spec.toml"
    if data.draw(st.booleans()):
        path.write_bytes(mutated(data.draw(st.sampled_from(VALID + SHORT)), data.draw(mutations)))
    else:
        try:
            path.write_text(tomli_w.dumps(data.draw(trees)), encoding="utf-8")
        except (TypeError, ValueError):  # a null, or half a character: no TOML
            assume(False)
    RAN["spec"] += 1
    try:
        layer = load_layer(path)
    except DamagedFile as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    settled(layer)


@fuzz("set")
@given(st.lists(st.tuples(st.lists(st.sampled_from(KEYS), max_size=3), st.text(max_size=12) | values), max_size=3))
def test_assignments(home: Path, given: list[tuple[list[str], Any]]) -> None:
    RAN["set"] += 1
    with contextlib.suppress(UserError):
        layer = set_layer(f"{'.'.join(keys)}={value}" for keys, value in given)
        settled(layer)


@fuzz("round trip")
@given(specs)
def test_a_spec_comes_back_as_it_was(home: Path, spec: RunSpec) -> None:
    RAN["round trip"] += 1
    path = home / "spec.toml"
    path.write_text(spec.to_toml(), encoding="utf-8")
    again = from_layer(load_layer(path))
    assert (again, again.hash()) == (spec, spec.hash())


# ---- weights ------------------------------------------------------------------------------------------------
def net() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return digits_net.build(num_classes=10, in_channels=1, width=2).state_dict()


def saved(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": net(), "epoch": 3}, buffer, **options)
    return buffer.getvalue()


WEIGHTS = [as_bytes(net()), saved(), saved(_use_new_zipfile_serialization=False)]


@fuzz("weights")
@given(st.sampled_from(WEIGHTS), mutations)
def test_weights(home: Path, content: bytes, changes: list[tuple[str, float, bytes]]) -> None:
    RAN["weights"] += 1
    path = home / "weights.pt"
    path.write_bytes(mutated(content, changes))
    try:
        weights = read_weights(path)
    except DamagedFile as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    with contextlib.suppress(UserError):
        assemble.fitting(weights, REGISTRY)


# ---- a run's folder -----------------------------------------------------------------------------------------
@fuzz("checkpoint")
@given(st.data())
def test_checkpoints(home: Path, data: st.DataObject) -> None:
    RAN["checkpoint"] += 1
    whole = find_checkpoint(home / "run").checkpoint
    assert whole is not None
    file = whole.path / data.draw(st.sampled_from(sorted(p.name for p in whole.path.iterdir())))
    with spoilt(file, mutated(file.read_bytes(), data.draw(mutations))):
        try:
            found = checkpoint.load(whole.path)
        except DamagedFile as error:
            assert file.name in str(error)  # noqa: PT017
            return
    assert same([found.weights, found.state, found.meta], [whole.weights, whole.state, whole.meta])


@fuzz("manifest")
@given(paths, values)
def test_forged_manifests(home: Path, path: list[int], new: Any) -> None:
    RAN["manifest"] += 1
    found = find_checkpoint(home / "run").checkpoint
    assert found is not None
    body = json.loads((found.path / "manifest.json").read_text())
    forged = {k: v for k, v in replaced(body, path, new).items() if k != "digest"}
    with spoilt(found.path / "manifest.json", sealed.spelt(forged).encode()), contextlib.suppress(RobustDistillError):
        rd.load(found.path)


def shown(run: rundir.RunDir, draw: bool = False) -> None:
    """All that `compare` and `report` make of a run, but for the drawing."""
    outcome(run)
    contents = gather(run, REGISTRY)
    assert words.verdict(contents)
    for part in (words.alarms(contents), words.missing(contents), _rows(contents), _flat(contents.environment)):
        list(part)
    list(pictures(contents))
    if draw:
        page(contents).encode()


RECORDS = ["spec.toml", "environment.json", "result.json", "evaluation.json", "events.jsonl", "examples.safetensors"]


@fuzz("records")
@given(st.sampled_from(RECORDS), mutations)
def test_records(home: Path, name: str, changes: list[tuple[str, float, bytes]]) -> None:
    RAN["records"] += 1
    run = rundir.RunDir(home / "run")
    with spoilt(run.path / name, mutated((run.path / name).read_bytes(), changes)):
        try:
            shown(run)
        except DamagedFile as error:
            assert name in str(error)  # noqa: PT017


@pytest.mark.slow
@fuzz("sealed records")
@given(st.sampled_from(RECORDS[1:5]), paths, values, st.integers(0, 19))
def test_records_that_were_sealed_anew(home: Path, name: str, path: list[int], new: Any, draw: int) -> None:
    RAN["sealed records"] += 1
    run = rundir.RunDir(home / "run")
    text = (run.path / name).read_text()
    if name == "events.jsonl":
        events = replaced([json.loads(line) for line in text.splitlines()], path, new)
        content = "".join(json.dumps(e) + "\n" for e in events) if isinstance(events, list) else ""
        (run.path / "lock").touch()  # else its hash would be looked at first
    else:
        body = replaced(json.loads(text), path, new)
        content = (
            sealed.spelt({k: v for k, v in body.items() if k != "digest"}) if isinstance(body, dict) else dumps(body)
        )
    with spoilt(run.path / name, content.encode()):
        try:
            shown(run, draw == 0)
        except RobustDistillError as error:
            assert name in str(error) or "spec.toml" in str(error)  # noqa: PT017
        finally:
            (run.path / "lock").unlink(missing_ok=True)


@fuzz("lock")
@given(mutations | values)
def test_locks(home: Path, changes: Any) -> None:
    RAN["lock"] += 1
    path = home / "lock"
    good = dumps(lock.Holder(2**22 + 1, "elsewhere", "7", "2026-01-01T00:00:00+00:00"))
    try:
        content = mutated(good.encode(), changes)
    except (TypeError, ValueError):
        content = json.dumps(replaced(json.loads(good), [len(repr(changes))], changes)).encode()
    path.write_bytes(content)
    assert isinstance(lock.user(path), str)
    with contextlib.suppress(UserError), lock.held(path):
        pass
    path.unlink(missing_ok=True)


# ---- caches and images --------------------------------------------------------------------------------------
@fuzz("parts")
@given(mutations)
def test_parts(home: Path, changes: list[tuple[str, float, bytes]]) -> None:
    RAN["parts"] += 1
    parts, tensors = Partial(home / "parts"), {"correct": torch.arange(40) % 3 == 0, "x": torch.ones(2, 3)}
    parts.put("a", tensors)
    path = home / "parts" / "a.part"
    path.write_bytes(mutated(path.read_bytes(), changes))
    found = parts.get("a")
    assert found is None or same(found, tensors)


def pixels(load: Callable[[], Any]) -> Any:
    return [np.asarray(t) for split in vars(load()).values() if split for t in (split.images, split.labels)]


@fuzz("cache")
@given(mutations)
def test_the_cache_of_images(home: Path, changes: list[tuple[str, float, bytes]]) -> None:
    RAN["cache"] += 1
    shutil.rmtree(cache.folder(), ignore_errors=True)
    known = pixels(lambda: cifar10(home / "parquet"))
    path = cache.folder() / "cifar10.npz"
    path.write_bytes(mutated(path.read_bytes(), changes))
    found = pixels(lambda: cifar10(home / "parquet"))
    assert all(np.array_equal(a, b) for a, b in zip(found, known, strict=True))


@fuzz("parquet")
@given(mutations)
def test_parquet(home: Path, changes: list[tuple[str, float, bytes]]) -> None:
    RAN["parquet"] += 1
    images(home / "parquet", home / "parquet" / "train-00000-of-00001.parquet", changes)


@fuzz("batches")
@given(mutations)
def test_batches(home: Path, changes: list[tuple[str, float, bytes]]) -> None:
    RAN["batches"] += 1
    images(home / "cifar-10-batches-py", home / "cifar-10-batches-py" / "data_batch_3", changes)


def images(folder: Path, file: Path, changes: list[tuple[str, float, bytes]]) -> None:
    with spoilt(file, mutated(file.read_bytes(), changes)):
        try:
            found = cifar10(folder)
        except DamagedFile as error:
            assert file.name in str(error)  # noqa: PT017
            return
    for split in (found.train, found.holdout, found.test):
        assert split.images.shape[1:] == (3, 32, 32)
        assert len(split.images) == len(split.labels)
