"""Images that do not fit on the device, and more images than a data set's own: the same batches, the stated shares."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robustdistill as rd
from robustdistill.data.loader import Batch, Extra, Loader
from robustdistill.data.window import Window
from robustdistill.errors import Stopped, UserError
from robustdistill.events import Finished
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve
from robustdistill.types import Augment, Split

RNG = np.random.default_rng(0)
REGISTRY = default_registry()


def split(n: int) -> Split:
    images = RNG.integers(0, 256, (n, 3, 6, 6), dtype=np.uint8)
    return Split(torch.from_numpy(images), torch.arange(n) % 10)


OWN, MORE = split(100), split(40)


def batches(
    resident: bool, extra: Extra | None, epoch: int = 1, start: int = 0, parts: tuple[Split, ...] = (OWN,)
) -> list[Batch]:
    augment = Augment(1, True)
    loader = Loader(parts, batch_size=16, augment=augment, seed=3, device="cpu", extra=extra, resident=resident)
    return [Batch(b.x.clone(), b.y.clone(), b.ids.clone()) for b in loader.epoch(epoch, start)]


@pytest.mark.parametrize("extra", [None, Extra(MORE, 0.7)], ids=["own", "extra"])
@pytest.mark.parametrize("epoch, start", [(0, 0), (1, 3)])
def test_a_window_shows_the_same_batches(extra: Extra | None, epoch: int, start: int) -> None:
    for a, b in zip(batches(True, extra, epoch, start), batches(False, extra, epoch, start), strict=True):
        assert all(map(torch.equal, (a.x, a.y, a.ids), (b.x, b.y, b.ids)))


@pytest.mark.parametrize("extra", [None, Extra(MORE, 0.7)], ids=["own", "extra"])
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("cuts", [(60,), (1, 37, 37, 99)])
def test_parts_give_the_batches_that_their_copy_into_one_gives(
    resident: bool, extra: Extra | None, cuts: tuple[int, ...]
) -> None:
    ends = [0, *cuts, len(OWN)]
    parts = tuple(Split(OWN.images[a:b], OWN.labels[a:b]) for a, b in pairwise(ends))
    for a, b in zip(batches(True, extra), batches(resident, extra, parts=parts), strict=True):
        assert all(map(torch.equal, (a.x, a.y, a.ids), (b.x, b.y, b.ids)))


def test_a_run_that_selects_on_the_test_set_copies_no_images(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns from training images and hold-out where they lie, and gives what their copy into one gives."""
    del spec["data"]
    spec["select"] = {"n": 10, "split": "test"}
    real, digits = torch.cat, REGISTRY.get("dataset", "digits").load(None)
    both = Split(*(real([getattr(p, f) for p in (digits.train, digits.holdout)]) for f in ("images", "labels")))
    with monkeypatch.context() as patch:
        patch.setattr("robustdistill.assemble.training_parts", lambda *_: [both])
        *_, copied = rd.train(spec)

    def refusing(tensors: Any, *args: Any, **more: Any) -> torch.Tensor:
        assert not any(t.dtype == torch.uint8 and t.ndim == 4 for t in tensors), "images are copied into one"
        return real(tensors, *args, **more)

    monkeypatch.setattr(torch, "cat", refusing)
    *_, last = rd.train(spec)
    assert isinstance(last, Finished)
    assert isinstance(copied, Finished)
    assert last.result == copied.result


def test_an_epoch_that_starts_late_has_the_rest_of_its_batches() -> None:
    extra = Extra(MORE, 0.5)
    for a, b in zip(batches(False, extra)[4:], batches(False, extra, start=4), strict=True):
        assert all(map(torch.equal, (a.x, a.y, a.ids), (b.x, b.y, b.ids)))


def test_extra_images_have_their_share_of_every_batch() -> None:
    epochs = [batches(False, Extra(MORE, 0.7), epoch) for epoch in (0, 1)]
    labels = torch.cat([OWN.labels, MORE.labels])
    for made in epochs:
        assert [len(b.y) for b in made] == [16] * 6 + [4]
        assert [int((b.ids >= 100).sum()) for b in made] == [11] * 6 + [3]
        own = torch.cat([b.ids[b.ids < 100] for b in made])
        assert len(own.unique()) == len(own)  # none of the set's own comes twice
        assert all(torch.equal(b.y, labels[b.ids]) for b in made)
    first, second = (torch.cat([b.ids for b in made]) for made in epochs)
    assert not torch.equal(first, second)
    plain, own = torch.cat([b.ids for b in batches(True, None, 0)]), first[first < 100]
    assert torch.equal(own, plain[: len(own)])


def test_every_extra_image_comes_about_as_often() -> None:
    ids = torch.cat([b.ids for epoch in range(60) for b in batches(False, Extra(MORE, 0.5), epoch)])
    counts = torch.bincount(ids[ids >= 100] - 100, minlength=40)
    assert int(counts.sum()) == 60 * (6 * 8 + 2)
    assert int(counts.min()) > 75 - 5 * 75**0.5  # of 75 each
    assert int(counts.max()) < 75 + 5 * 75**0.5


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    images = RNG.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "more.npz", image=images, label=np.arange(50) % 10)
    return {
        "method": "sat",
        "student": {"name": "digits-net", "width": 4},
        "epochs": 2,
        "limit_batches": 3,
        "batch_size": 10,
        "select": {"n": 10},
        "device": "cpu",
        "data": {"name": "digits", "extra": {"file": str(tmp_path / "more.npz")}},
    }


@pytest.mark.slow
def test_a_run_with_more_images_goes_on_bit_for_bit(tmp_path: Path, spec: dict[str, Any]) -> None:
    asked = iter(range(99))
    list(rd.train(spec, out=tmp_path / "a"))
    with pytest.raises(Stopped):
        list(rd.train(spec, out=tmp_path / "b", stop=lambda: next(asked) == 1))
    list(rd.resume(tmp_path / "b"))
    one, two = ((tmp_path / name / "result.json").read_bytes() for name in "ab")
    assert one == two
    kept = json.loads((tmp_path / "a" / "environment.json").read_text())
    assert set(kept["data_sha256"]) == {"train", "holdout", "test", "extra"}


def test_the_hash_of_a_spec_knows_of_more_images_but_not_of_their_folder(spec: dict[str, Any]) -> None:
    one = resolve([spec], REGISTRY)
    assert one.data.extra is not None
    assert one.data.extra.share == 0.7
    elsewhere = resolve([spec | {"data": {"name": "digits", "extra": {"file": "elsewhere/more.npz"}}}], REGISTRY)
    assert elsewhere.hash() == one.hash()
    for data in ("digits", {"name": "digits", "extra": {"file": "more.npz", "share": 0.5}}):
        assert resolve([spec | {"data": data}], REGISTRY).hash() != one.hash()


@pytest.mark.parametrize(
    "image, label, words",
    [
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int), r"are \[3, 8, 8\], the run's data has \[1, 8, 8\]"),
        (np.zeros((4, 8, 8, 1), np.uint8), np.full(4, 10), "labels beyond the 10 classes"),
        (np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, int), "has no images"),
    ],
)
def test_more_images_of_another_kind(tmp_path: Path, spec: dict[str, Any], image: Any, label: Any, words: str) -> None:
    np.savez(tmp_path / "more.npz", image=image, label=label)
    with pytest.raises(UserError, match=words):
        list(rd.train(spec))


class Sent:
    """An event: on which stream it was recorded."""

    def __init__(self) -> None:
        self.streams: list[str] = []

    def synchronize(self) -> None:
        pass

    def record(self, stream: str) -> None:
        self.streams.append(stream)


def test_a_buffer_waits_for_the_stream_of_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for that of the current device, which another GPU may be."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    window = Window([OWN.images], 16, torch.device("cpu"))
    window._sent = [sent := Sent()]  # type: ignore[list-item]
    window.fill(torch.arange(16))
    assert torch.equal(window.images, OWN.images[:16])
    assert sent.streams == ["stream of cpu"]
