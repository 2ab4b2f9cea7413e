"""The data set `stripes`: noise with brighter rows or brighter columns."""

from pathlib import Path

import torch

from robustdistill import Dataset, hookimpl
from robustdistill.types import Augment, Split, Splits


def load(_: Path | None) -> Splits:
    """Drawn from fixed seeds: the same images each time."""
    return Splits(train=draw(512, 0), holdout=draw(128, 1), test=draw(256, 2))


def draw(n: int, seed: int) -> Split:
    """`n` images `[1, 8, 8]`, every second row (class 0) or column (class 1) brighter."""
    g = torch.Generator().manual_seed(seed)
    images, labels = torch.randint(0, 128, (n, 1, 8, 8), generator=g), torch.randint(2, (n,), generator=g)
    images[labels == 0, :, ::2, :] += 96
    images[labels == 1, :, :, ::2] += 96
    return Split(images.to(torch.uint8), labels)


@hookimpl
def register_datasets() -> dict[str, Dataset]:
    stripes = Dataset(
        load=load,
        classes=("rows", "columns"),
        channels=1,
        size=8,
        eps=0.1,
        augment=Augment(),
        student="digits-net",
        teacher="",  # none is known
    )
    return {"stripes": stripes}

