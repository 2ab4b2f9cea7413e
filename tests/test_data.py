"""Where images come from: fixed splits, both layouts of both CIFARs, what damaged and hostile files do, the cache."""

import hashlib
import io
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from robustdistill.builtin.datasets import register_datasets
from robustdistill.data import cifar_batches, parquet
from robustdistill.data.arrays import Arrays
from robustdistill.data.cutting import stratified
from robustdistill.data.keys import key
from robustdistill.data.sources import cifar10, cifar100, digits
from robustdistill.errors import DamagedFile, UserError
from robustdistill.types import Dataset, Split, Splits

Pixels = NDArray[np.uint8]

DIGITS = {
    "train": "6d3e3d45a35db1d0a0d0ae1e20d5a2233e964a266826f32ac66dfe4f166c862e",
    "holdout": "bb8055dc6712573becf811a184d136eb89145802ca3ac6a2aa3dd55ed04c9ee2",
    "test": "c3f05d8a873da05c02c13d5be2b69a3864e94ae490f18577473259749f58b8df",
}
DIGITS_LABELS = "8e40949cbc8d9e8c014c6e0aa63d71e1fa95e4d635de6897ea9ff954160c1756"
HOLDOUTS = {
    "cifar10": (10, "cda805f7a08d6faf815055d3c6a7daa79aae022c604286d1094c980114f60f15"),
    "cifar100": (100, "cad27d10b19fdb797108bb11718a00ae29e79d192e0e61691c3cdee483098628"),
}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own for each test, removed afterwards: the real CIFAR-10 takes 180 MB."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    yield home / "robustdistill"
    shutil.rmtree(home)


def sha256(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def counts(split: Split, classes: int = 10) -> list[int]:
    return torch.bincount(split.labels, minlength=classes).tolist()


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


# ---- keys ---------------------------------------------------------------------------------------------------
def test_keys_never_change() -> None:
    assert key(0) == 6197007067532723406
    assert key(1, "crop", 2) == 6198239365485310959


def test_keys_tell_numbers_words_and_boundaries_apart() -> None:
    parts: list[tuple[int | str, ...]] = [(), (1,), ("1",), (1, 2), (12,), ("1, 2",), (2, 1), ("a", "b"), ("ab",)]
    assert len({key(*some) for some in parts}) == len(parts)
    assert all(0 <= key(i) < 2**63 for i in range(1000))


# ---- digits -------------------------------------------------------------------------------------------------
def test_digits_are_pinned() -> None:
    data = digits(None)
    assert {name: sha256(getattr(data, name).images) for name in DIGITS} == DIGITS
    assert sha256(np.concatenate([data.train.labels, data.holdout.labels, data.test.labels])) == DIGITS_LABELS


def test_digits_shapes_and_balance() -> None:
    data = digits(None)
    assert [len(split) for split in (data.train, data.holdout, data.test)] == [1257, 180, 360]
    assert counts(data.test) == [36] * 10
    assert counts(data.holdout) == [18] * 10
    assert min(counts(data.train)) >= 120
    for split in (data.train, data.holdout, data.test):
        assert split.images.shape[1:] == (1, 8, 8)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)


def test_digits_use_the_whole_range() -> None:
    levels = torch.unique(digits(None).train.images).tolist()
    assert levels == [round(v * 255 / 16) for v in range(17)]


# ---- the cut ------------------------------------------------------------------------------------------------
def test_parts_are_disjoint_complete_and_balanced() -> None:
    labels = np.array([i * i % 7 % 3 for i in range(300)])
    parts = stratified(labels, (5, 9), "test")
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))
    assert [np.bincount(labels[part]).tolist() for part in parts[:2]] == [[5] * 3, [9] * 3]
    assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize("name", HOLDOUTS)
def test_the_cuts_of_both_cifars_are_pinned(name: str) -> None:
    classes, digest = HOLDOUTS[name]
    holdout, rest = stratified(np.arange(50_000) % classes, (2_000 // classes,), name)
    assert (len(holdout), len(rest)) == (2_000, 48_000)
    assert sha256(holdout) == digest


@pytest.mark.parametrize(("load", "name"), [(cifar10, "cifar10"), (cifar100, "cifar100")])
def test_the_pinned_cut_is_the_one_that_is_made(
    load: Callable[[Path], Splits], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size, with images whose four bytes are their row numbers."""
    classes, digest = HOLDOUTS[name]
    images = np.arange(50_000, dtype=np.int32).view(np.uint8).reshape(-1, 4, 1, 1)
    train = Arrays(images, np.arange(50_000) % classes)
    monkeypatch.setattr(cifar_batches, "read", lambda *_: (train, train))
    (tmp_path / ("test_batch" if classes == 10 else "test")).touch()
    data = load(tmp_path)
    assert sha256(data.holdout.images.numpy().reshape(-1, 4).view(np.int32).astype(np.int64)) == digest
    assert (len(data.train), counts(data.holdout, classes)) == (48_000, [2_000 // classes] * classes)


# ---- CIFAR-10 as parquet ------------------------------------------------------------------------------------
def photographs(n: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    """`pixels` [C, H, W] or [H, W] as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels).save(buffer, kind)
    return buffer.getvalue()


def write_rows(
    path: Path, images: list[bytes | None], labels: list[Any], column: str = "img", label: str = "label"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    structs = [{"bytes": data, "path": None} for data in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({column: pa.array(structs, kind), label: labels}), path)


def write_parquet(path: Path, images: Pixels, column: str = "img") -> None:
    write_rows(path, [encoded(image) for image in images], [i % 10 for i in range(len(images))], column)


TRAIN, TEST = photographs(40, 1), photographs(20, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny CIFAR-10 in parquet, four training images a class."""
    write_parquet(tmp_path / "train-00000-of-00001.parquet", TRAIN)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", TEST)
    return tmp_path


def assert_tiny(data: Splits) -> None:
    """`data` is TRAIN, one image a class held out, and TEST."""
    assert [counts(split) for split in (data.train, data.holdout, data.test)] == [[3] * 10, [1] * 10, [2] * 10]
    assert rows(data.train) | rows(data.holdout) == {image.tobytes() for image in TRAIN}
    assert np.array_equal(data.test.images, TEST)
    assert data.test.labels.tolist() == [i % 10 for i in range(20)]
    row = {image.tobytes(): i for i, image in enumerate(TRAIN)}
    assert all(row[x.numpy().tobytes()] % 10 == y for x, y in zip(data.train.images, data.train.labels, strict=True))


@pytest.mark.parametrize(("place", "column"), [(".", "img"), ("data", "image"), ("plain_text", "img")])
def test_parquet_in_each_place(tmp_path: Path, place: str, column: str) -> None:
    write_parquet(tmp_path / place / "train-00000-of-00001.parquet", TRAIN, column)
    write_parquet(tmp_path / place / "test-00000-of-00001.parquet", TEST, column)
    assert_tiny(cifar10(tmp_path))


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", TRAIN[:10])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", TRAIN[10:])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", TEST)
    assert_tiny(cifar10(tmp_path))
    assert np.array_equal(parquet.read(parquet.shards(tmp_path, "train")).images, TRAIN)


def test_a_missing_shard_is_an_error(folder: Path) -> None:
    (folder / "train-00000-of-00001.parquet").rename(folder / "train-00000-of-00002.parquet")
    with pytest.raises(UserError, match=r"holds 1 of the 2 files train-\*\.parquet"):
        cifar10(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere; .*--data-dir"):
        cifar10(tmp_path / "nowhere")


def test_folder_of_something_else(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00001.parquet", TRAIN)  # and no test
    with pytest.raises(UserError, match=r"looked for train-\*\.parquet and test-\*\.parquet.*cifar-10-batches-py"):
        cifar10(tmp_path)


def test_truncated_parquet(folder: Path) -> None:
    path = folder / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=r"test-00000-of-00001\.parquet cannot be read as parquet"):
        cifar10(folder)


GOOD = encoded(TRAIN[0])
BAD_IMAGES = {
    "truncated": (GOOD[: len(GOOD) // 2], "holds no whole PNG or JPEG image"),
    "text": (b"<html>", "holds no whole PNG or JPEG image"),
    "absent": (None, "holds no whole PNG or JPEG image"),
    "another format": (encoded(TRAIN[0], "BMP"), "holds no whole PNG or JPEG image"),
    "grey": (encoded(TRAIN[0, 0]), r"an image that is L, 32x32 pixels; expected RGB, 32x32"),
    "small": (encoded(TRAIN[0, :, :8, :16]), r"an image that is RGB, 16x8 pixels; expected RGB, 32x32"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_named_by_file_and_row(folder: Path, name: str) -> None:
    image, sentence = BAD_IMAGES[name]
    write_rows(folder / "test-00000-of-00001.parquet", [GOOD, image], [0, 1])
    with pytest.raises(DamagedFile, match=rf"row 1 of .*test-00000-of-00001\.parquet .*{sentence}"):
        cifar10(folder)


@pytest.mark.parametrize("labels", [[0, 10], [0, -1], [0, None], ["0", "cat"], [0.0, 0.5]])
def test_bad_labels(folder: Path, labels: list[Any]) -> None:
    write_rows(folder / "test-00000-of-00001.parquet", [GOOD, GOOD], labels)
    with pytest.raises(DamagedFile, match=r"row [01] of .*test-00000.* has the label .*; expected an integer"):
        cifar10(folder)


@pytest.mark.parametrize("table", [{"text": ["a"], "label": [1]}, {"img": ["a"], "label": [1]}, {"label": [1]}])
def test_other_columns(folder: Path, table: dict[str, Any]) -> None:
    pq.write_table(pa.table(table), folder / "test-00000-of-00001.parquet")
    with pytest.raises(DamagedFile, match=r"has the columns .*label; expected img or image"):
        cifar10(folder)


# ---- the cache ----------------------------------------------------------------------------------------------
def no_reading(*_: Any, **__: Any) -> None:
    raise AssertionError("the parquet files were read again")


def test_second_load_comes_from_the_cache(folder: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar10(folder)
    assert [path.name for path in cache_folder.iterdir()] == ["cifar10.npz"]
    monkeypatch.setattr(parquet, "read", no_reading)
    assert_tiny(cifar10(folder))


def test_changed_files_are_read_again(folder: Path) -> None:
    write_parquet(folder / "test-00000-of-00001.parquet", TEST[::-1])
    cifar10(folder)
    write_parquet(folder / "test-00000-of-00001.parquet", TEST)
    os.utime(folder / "test-00000-of-00001.parquet", ns=(1, 1))
    assert_tiny(cifar10(folder))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [damage, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"PK")])
def test_a_damaged_cache_is_replaced(
    folder: Path, cache_folder: Path, spoil: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar10(folder)
    spoil(cache_folder / "cifar10.npz")
    assert_tiny(cifar10(folder))
    monkeypatch.setattr(parquet, "read", no_reading)
    assert_tiny(cifar10(folder))


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_tiny(cifar10(folder))


def test_no_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert_tiny(cifar10(folder))


# ---- CIFAR-10 as torchvision's batches ----------------------------------------------------------------------
class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, in which CIFAR-10's own files are written."""

    def save_string(self, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[Any, Any]] = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}


def python2(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


PICKLERS: dict[str, Callable[[Any], bytes]] = {
    "python 2": python2,
    "protocol 2": lambda content: pickle.dumps(content, 2),
    "protocol 4": lambda content: pickle.dumps(content, 4),
}


def batch(images: Pixels, first: int = 0) -> dict[str, Any]:
    flat = np.ascontiguousarray(images.reshape(-1, 3072))
    return {"data": flat, "labels": [(first + i) % 10 for i in range(len(images))], "batch_label": "training batch"}


def write_batches(folder: Path, dumps: Callable[[Any], bytes] = PICKLERS["protocol 4"]) -> Path:
    folder.mkdir()
    for i in range(5):
        (folder / f"data_batch_{i + 1}").write_bytes(dumps(batch(TRAIN[8 * i : 8 * i + 8], 8 * i)))
    (folder / "test_batch").write_bytes(dumps(batch(TEST)))
    return folder


@pytest.mark.parametrize("dumps", PICKLERS.values(), ids=PICKLERS)
def test_torchvision_batches(tmp_path: Path, dumps: Callable[[Any], bytes]) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py", dumps)
    assert_tiny(cifar10(tmp_path))
    assert_tiny(cifar10(folder))


class Hostile:
    """Unpickled the ordinary way, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    folder, marker = write_batches(tmp_path / "cifar-10-batches-py"), tmp_path / "executed"
    hostile = pickle.dumps({"more": Hostile(marker), **batch(TEST)}, protocol)
    (folder / "test_batch").write_bytes(hostile)
    with pytest.raises(DamagedFile, match=r"test_batch asks for (posix|nt)\.mkdir, .*nothing of it was run"):
        cifar10(tmp_path)
    assert not marker.exists()
    pickle.loads(hostile)  # the proof that it would have
    assert marker.exists()


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    (folder / "test_batch").write_bytes(pickle.dumps({"data": np.array([[1], []], dtype=object), "labels": [1, 2]}, 4))
    with pytest.raises(DamagedFile, match=r"test_batch asks for an array of type 'O8'"):
        cifar10(tmp_path)


WHOLE = pickle.dumps(batch(TEST), 4)
BAD_BATCHES = {
    "truncated": (WHOLE[:-50], "cannot be read as a batch of CIFAR-10"),
    "text": (b"<html>", "cannot be read as a batch of CIFAR-10"),
    "empty": (b"", "cannot be read as a batch of CIFAR-10"),
    "a list": (pickle.dumps([1, 2]), "is no batch of CIFAR-10: expected a dict"),
    "no labels": (pickle.dumps({"data": batch(TEST)["data"]}, 4), "is no batch of CIFAR-10: expected a dict"),
    "small": (pickle.dumps({"data": TEST[:, 0, 0], "labels": [0] * 20}, 4), r"has images of shape \(20, 32\)"),
    "lengths": (pickle.dumps({**batch(TEST), "labels": [0] * 19}, 4), r"\(20, 3072\) for 19 labels"),
    "label": (
        pickle.dumps({**batch(TEST), "labels": [0] * 19 + [10]}, 4),
        "has the label 10; expected an integer from 0 to 9",
    ),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_batches(tmp_path: Path, name: str) -> None:
    content, sentence = BAD_BATCHES[name]
    (write_batches(tmp_path / "cifar-10-batches-py") / "test_batch").write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"test_batch .*{sentence}|row 19 of .*test_batch {sentence}"):
        cifar10(tmp_path)


def test_incomplete_batches(tmp_path: Path) -> None:
    (write_batches(tmp_path / "cifar-10-batches-py") / "data_batch_3").unlink()
    with pytest.raises(UserError, match="lacks data_batch_3"):
        cifar10(tmp_path)


# ---- CIFAR-100 ----------------------------------------------------------------------------------------------
FINE = {"train": [i % 100 for i in range(200)], "test": [99 - i for i in range(100)]}
IMAGES100 = {"train": photographs(200, 3), "test": photographs(100, 4)}


def write_parquet100(folder: Path, label: str = "fine_label") -> Path:
    """A tiny CIFAR-100 in Hugging Face's layout, two training images a class."""
    for part, images in IMAGES100.items():
        path = folder / f"{part}-00000-of-00001.parquet"
        write_rows(path, [encoded(image) for image in images], FINE[part], label=label)
        table = pq.read_table(path)
        pq.write_table(table.append_column("coarse_label", [[c // 5 for c in FINE[part]]]), path)
    return folder


def batch100(part: str) -> dict[str, Any]:
    flat = np.ascontiguousarray(IMAGES100[part].reshape(-1, 3072))
    return {"filenames": ["a.png"], "coarse_labels": [0] * len(flat), "fine_labels": FINE[part], "data": flat}


def write_batches100(folder: Path, dumps: Callable[[Any], bytes] = PICKLERS["protocol 4"]) -> Path:
    folder.mkdir()
    for part in IMAGES100:
        (folder / part).write_bytes(dumps(batch100(part)))
    (folder / "meta").write_bytes(dumps({"fine_label_names": ["apple"], "coarse_label_names": ["fish"]}))
    return folder


def assert_tiny100(data: Splits) -> None:
    """`data` is the two parts of IMAGES100, one image a class held out."""
    assert [counts(split, 100) for split in (data.train, data.holdout, data.test)] == [[1] * 100] * 3
    assert rows(data.train) | rows(data.holdout) == {image.tobytes() for image in IMAGES100["train"]}
    assert np.array_equal(data.test.images, IMAGES100["test"])
    assert data.test.labels.tolist() == FINE["test"]
    row = {image.tobytes(): i for i, image in enumerate(IMAGES100["train"])}
    assert all(row[x.numpy().tobytes()] % 100 == y for x, y in zip(data.train.images, data.train.labels, strict=True))


@pytest.mark.parametrize("place", [".", "data", "cifar100"])
def test_cifar100_as_parquet_in_each_place(tmp_path: Path, place: str, cache_folder: Path) -> None:
    write_parquet100(tmp_path / place)
    assert_tiny100(cifar100(tmp_path))
    assert [path.name for path in cache_folder.iterdir()] == ["cifar100.npz"]
    assert_tiny100(cifar100(tmp_path))


@pytest.mark.parametrize("dumps", PICKLERS.values(), ids=PICKLERS)
def test_cifar100_as_torchvisions_pickles(tmp_path: Path, dumps: Callable[[Any], bytes]) -> None:
    folder = write_batches100(tmp_path / "cifar-100-python", dumps)
    assert_tiny100(cifar100(tmp_path))
    assert_tiny100(cifar100(folder))


def test_both_layouts_hold_out_by_row_number(tmp_path: Path) -> None:
    write_batches100(tmp_path / "cifar-100-python")
    batches = cifar100(tmp_path)
    table = cifar100(write_parquet100(tmp_path / "parquet"))
    assert torch.equal(batches.holdout.images, table.holdout.images)


def test_the_two_cifars_are_not_taken_for_each_other(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DamagedFile, match=r"has the columns .*label; expected img or image, .*, and fine_label$"):
        cifar100(folder)
    with pytest.raises(DamagedFile, match=r"has the columns .*fine_label, coarse_label; expected .*, and label$"):
        cifar10(write_parquet100(tmp_path / "100"))
    write_batches(tmp_path / "cifar-10-batches-py")
    write_batches100(tmp_path / "cifar-100-python")
    for path in folder.glob("*.parquet"):
        path.unlink()
    assert_tiny(cifar10(tmp_path))
    assert_tiny100(cifar100(tmp_path))
    with pytest.raises(UserError, match=r"holds no CIFAR-100: looked for .* data/ and cifar100/, .*cifar-100-python/;"):
        cifar100(tmp_path / "cifar-10-batches-py")
    with pytest.raises(UserError, match=r"holds no CIFAR-10: looked for .* data/ and plain_text/, "):
        cifar10(tmp_path / "cifar-100-python")


def test_missing_folder_of_cifar100(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere; give the one that holds CIFAR-100"):
        cifar100(tmp_path / "nowhere")


def test_bad_labels_of_cifar100(tmp_path: Path) -> None:
    write_parquet100(tmp_path)
    write_rows(tmp_path / "test-00000-of-00001.parquet", [GOOD], [100], label="fine_label")
    with pytest.raises(DamagedFile, match=r"has the label 100; expected an integer from 0 to 99"):
        cifar100(tmp_path)


BAD_BATCHES100 = {
    "coarse alone": (
        {k: v for k, v in batch100("test").items() if k != "fine_labels"},
        "no batch of CIFAR-100: expected a dict of an array `data` and a list `fine_labels`",
    ),
    "label": ({**batch100("test"), "fine_labels": [100] * 100}, "the label 100; expected an integer from 0 to 99"),
    "lengths": ({**batch100("test"), "fine_labels": [0] * 99}, r"\(100, 3072\) for 99 labels"),
}


@pytest.mark.parametrize("name", BAD_BATCHES100)
def test_bad_pickles_of_cifar100(tmp_path: Path, name: str) -> None:
    content, sentence = BAD_BATCHES100[name]
    (write_batches100(tmp_path / "cifar-100-python") / "test").write_bytes(pickle.dumps(content))
    with pytest.raises(DamagedFile, match=rf"test .*{sentence}"):
        cifar100(tmp_path)


def test_a_missing_and_a_hostile_pickle_of_cifar100(tmp_path: Path) -> None:
    folder, marker = write_batches100(tmp_path / "cifar-100-python"), tmp_path / "executed"
    (folder / "train").write_bytes(pickle.dumps({"more": Hostile(marker), **batch100("train")}))
    with pytest.raises(DamagedFile, match=r"a batch of CIFAR-100 has no use for; nothing of it was run"):
        cifar100(tmp_path)
    assert not marker.exists()
    (folder / "train").unlink()
    with pytest.raises(UserError, match="lacks train; unpack the whole archive of CIFAR-100 there"):
        cifar100(tmp_path)


# ---- records, and the real thing ----------------------------------------------------------------------------
def test_records_describe_what_they_load(folder: Path) -> None:
    records = {name: record for name, record in register_datasets().items() if isinstance(record, Dataset)}
    assert list(records) == ["digits", "cifar10", "cifar100", "svhn", "tiny-imagenet"]
    places = {"digits": None, "cifar10": folder, "cifar100": write_batches100(folder / "100")}
    for name, record in ((name, records[name]) for name in places):
        assert record.needs_dir == bool(places[name])
        test = record.load(places[name]).test
        assert record.downloads in (None, (48_000, 2_000, 10_000))
        assert test.images.shape[1:] == (record.channels, record.size, record.size)
        assert sorted(torch.unique(test.labels).tolist()) == list(range(len(record.classes)))
    assert records["digits"].classes[3] == "3"
    assert records["cifar10"].classes[3] == "cat"
    assert [records["cifar100"].classes[i] for i in (0, 26, 70, 99)] == ["apple", "crab", "rose", "worm"]
    assert sorted(set(records["cifar100"].classes)) == list(records["cifar100"].classes)


@pytest.mark.slow
def test_real_cifar10(shared: Path) -> None:
    data = cifar10(shared / "data" / "cifar10-jpeg")
    assert [counts(split) for split in (data.train, data.holdout, data.test)] == [[4800] * 10, [200] * 10, [1000] * 10]
    assert data.train.images.shape == (48_000, 3, 32, 32)
    means = data.train.images[::10].float().mean(dim=(0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-3)  # the known means of R, G and B
    again = cifar10(shared / "data" / "cifar10-jpeg")
    assert all(torch.equal(getattr(again, name).images, getattr(data, name).images) for name in ("train", "test"))
