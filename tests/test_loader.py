"""Batches: augmentation against a slow reference, and what order and draws may depend on."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustdistill.data.loader import Batch, Loader, crop_flip, draw, scaled
from robustdistill.types import Augment, Split

N = 50


@pytest.fixture
def split() -> Split:
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (N, 3, 6, 5), generator=g, dtype=torch.uint8)
    return Split(images, torch.randint(0, 10, (N,), generator=g))


def loader(split: Split, size: int = 16, seed: int = 0, pad: int = 2, flip: bool = True, **more: Any) -> Loader:
    return Loader([split], batch_size=size, augment=Augment(pad, flip), seed=seed, device="cpu", **more)


def by_id(batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """All images and labels of an epoch, in the order of their ids."""
    order = torch.cat([b.ids for b in batches]).argsort()
    return torch.cat([b.x for b in batches])[order], torch.cat([b.y for b in batches])[order]


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.ids, b.ids)


# ---- crop and flip ------------------------------------------------------------------------------------------
def slow_crop_flip(images: Tensor, dy: Tensor, dx: Tensor, flip: Tensor, pad: int) -> Tensor:
    """One image after the other, in numpy."""
    height, width = images.shape[2:]
    out = []
    for image, top, left, mirror in zip(images.numpy(), dy.tolist(), dx.tolist(), flip.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        window = padded[:, top : top + height, left : left + width]
        out.append(window[:, :, ::-1] if mirror else window)
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("flips", [torch.int64, torch.bool])
def test_crop_flip_equals_the_slow_reference(split: Split, pad: int, flips: torch.dtype) -> None:
    g = torch.Generator().manual_seed(pad)
    dy, dx = torch.randint(2 * pad + 1, (2, N), generator=g)
    flip = torch.randint(2, (N,), generator=g).to(flips)
    out = crop_flip(split.images, dy, dx, flip, pad)
    assert torch.equal(out, slow_crop_flip(split.images, dy, dx, flip, pad))
    assert out.dtype == torch.uint8
    assert out.is_contiguous()


def test_the_middle_window_is_the_image(split: Split) -> None:
    middle = torch.full((N,), 3)
    assert torch.equal(crop_flip(split.images, middle, middle, torch.zeros(N), 3), split.images)


def test_draws_cover_their_range_evenly() -> None:
    draws = draw(9_000, Augment(pad=1, flip=True), seed=0, epoch=0)
    cells = torch.bincount(6 * draws.dy + 2 * draws.dx + draws.flip, minlength=18)
    assert len(cells) == 18
    assert cells.min() > 400  # 500 expected, standard deviation 22
    assert cells.max() < 600


# ---- epochs -------------------------------------------------------------------------------------------------
def test_every_sample_once(split: Split) -> None:
    batches = list(loader(split).epoch(0))
    assert [len(b.y) for b in batches] == [16, 16, 16, 2]
    assert sorted(torch.cat([b.ids for b in batches]).tolist()) == list(range(N))
    assert all(torch.equal(b.y, split.labels[b.ids]) for b in batches)
    assert len(loader(split)) == 4
    assert len(loader(split, 25)) == 2


def test_batches_hold_the_drawn_windows(split: Split) -> None:
    draws = draw(N, Augment(2, True), seed=0, epoch=3)
    expected = slow_crop_flip(split.images, draws.dy, draws.dx, draws.flip, 2)
    x, y = by_id(list(loader(split).epoch(3)))
    assert torch.equal(x, expected / 255)
    assert torch.equal(y, split.labels)


def test_images_of_a_batch_are_cropped_apart() -> None:
    same_image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(N, -1, -1, -1)
    (batch,) = loader(Split(same_image, torch.zeros(N, dtype=torch.int64)), N).epoch(0)
    assert len({x.numpy().tobytes() for x in batch.x}) > 20


def test_augmentation_does_not_depend_on_the_batch_size(split: Split) -> None:
    few, many = (by_id(list(loader(split, size).epoch(1))) for size in (7, 32))
    assert torch.equal(few[0], many[0])
    ids = [torch.cat([b.ids for b in loader(split, size).epoch(1)]) for size in (7, 32)]
    assert torch.equal(*ids)


def test_the_same_seed_and_epoch_give_the_same_batches(split: Split) -> None:
    torch.manual_seed(123)
    first = list(loader(split).epoch(2))
    torch.manual_seed(456)  # the global state has no say, and epochs may be asked for in any order
    again = loader(split)
    list(again.epoch(7))
    assert all(same(a, b) for a, b in zip(first, again.epoch(2), strict=True))


def test_the_global_random_state_is_left_alone(split: Split) -> None:
    before = torch.get_rng_state()
    list(loader(split).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_another_seed_or_epoch_differs(split: Split, seed: int, epoch: int) -> None:
    a, b = list(loader(split).epoch(0)), list(loader(split, seed=seed).epoch(epoch))
    assert not torch.equal(torch.cat([x.ids for x in a]), torch.cat([x.ids for x in b]))
    assert (by_id(a)[0] != by_id(b)[0]).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_starting_inside_an_epoch(split: Split, start: int) -> None:
    whole = list(loader(split).epoch(5))
    rest = list(loader(split).epoch(5, start=start))
    assert len(rest) == 4 - start
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_limit_batches_cuts_the_epoch(split: Split) -> None:
    whole, cut = list(loader(split).epoch(0)), loader(split, limit_batches=2)
    assert len(cut) == len(list(cut.epoch(0))) == 2
    assert all(same(a, b) for a, b in zip(whole, cut.epoch(0), strict=False))
    assert len(loader(split, limit_batches=100)) == 4


def test_no_augmentation_is_the_identity(split: Split) -> None:
    x, _ = by_id(list(loader(split, pad=0, flip=False).epoch(0)))
    assert torch.equal(x, split.images / 255)


# ---- numbers and devices ------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_types_and_range(split: Split, dtype: torch.dtype) -> None:
    for batch in loader(split, dtype=dtype).epoch(0):
        assert (batch.x.dtype, batch.y.dtype, batch.ids.dtype) == (dtype, torch.int64, torch.int64)
        assert batch.x.min() >= 0
        assert batch.x.max() <= 1


def test_scaled_is_exact() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert scaled(levels, torch.float64).tolist() == [v / 255 for v in range(256)]


def test_no_step_waits_for_the_host(split: Split) -> None:
    """On `meta` there are no values: anything that looks at one raises."""
    batches = list(Loader([split], batch_size=16, augment=Augment(2, True), seed=0, device="meta").epoch(0))
    assert [tuple(b.x.shape) for b in batches] == [(16, 3, 6, 5)] * 3 + [(2, 3, 6, 5)]
    assert all(tensor.is_meta for b in batches for tensor in (b.x, b.y, b.ids))
