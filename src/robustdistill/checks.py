"""What does not fit together is said before a run starts: networks, images, batches, modules."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustdistill.errors import PluginError, UserError
from robustdistill.modes import attacked
from robustdistill.types import Dataset, Split


def check_network(network: nn.Module, dataset: Dataset, what: str) -> None:
    """UserError unless `network` maps the data's images to one logit per class."""
    home = next(network.parameters(), torch.empty(0))
    x = torch.zeros(2, dataset.channels, dataset.size, dataset.size, device=home.device, dtype=home.dtype)
    try:
        with torch.no_grad(), attacked(network):
            shape = list(network(x).shape)
    except Exception as error:
        raise UserError(f"{what} does not take images {list(x.shape)}: {error}") from error
    if shape != [2, len(dataset.classes)]:
        raise UserError(
            f"{what} gives logits of shape {shape} for 2 images; the data has {len(dataset.classes)} classes"
        )


def check_modules(modules: Mapping[str, object]) -> None:
    """UserError for what is given as a network, by what it is to be, and cannot be one of a run."""
    for what, module in modules.items():
        if not isinstance(module, nn.Module):
            raise UserError(f"{what} must be a torch.nn.Module; got {type(module).__name__}")
        if any(t.is_inference() for t in (*module.parameters(), *module.buffers())):
            raise UserError(f"{what} was made under torch.inference_mode() and has no gradients; make it outside")


def check_split(split: Split, dataset: Dataset, what: str) -> None:
    """PluginError unless `split` holds uint8 images of the data set's size, each with a label of one of its classes."""
    x, y, size = split.images, split.labels, [dataset.channels, dataset.size, dataset.size]
    if x.dtype != torch.uint8 or list(x.shape[1:]) != size or len(x) == 0:
        raise PluginError(f"{what} must be uint8 [N, {', '.join(map(str, size))}]; got {list(x.shape)} of {x.dtype}")
    if y.dtype != torch.int64 or list(y.shape) != [len(x)]:
        raise PluginError(f"{what} need {len(x)} labels of dtype int64; got {list(y.shape)} of {y.dtype}")
    if not 0 <= int(y.min()) <= int(y.max()) < len(dataset.classes):
        reach = f"{int(y.min())} to {int(y.max())}"
        raise PluginError(f"{what} have labels from {reach}; expected 0 to {len(dataset.classes) - 1}")
    if int(x.max()) == 1:
        raise PluginError(f"{what} are all 0 or 1 where 255 is white; scale pixels before they become uint8")


def check_size(x: Tensor, dataset: Dataset, name: str) -> None:
    """UserError unless images `x` `[N, C, H, W]` are as large, and of as many colours, as those of the data set."""
    size = [dataset.channels, dataset.size, dataset.size]
    if list(x.shape[1:]) != size:
        raise UserError(f"images of {name} are {size}; got {list(x.shape[1:])}")


def check_smallest_batch(
    student: nn.Module, dataset: Dataset, images: int, batch_size: int, processes: int = 1, sync_bn: bool = False
) -> None:
    """UserError if an epoch of `images` has a batch that does not give each of the `processes` an image, or gives one
    a single image from which the student cannot learn; with `sync_bn` it learns from the others' too.
    """
    least = min(images % batch_size or batch_size, images)
    if least < processes:
        raise UserError(
            f"{images:,} images in batches of {batch_size} leave one of {least}, too few for {processes} processes; "
            "choose another batch_size, or start fewer of them"
        )
    if least // processes > 1 or (sync_bn and processes > 1):
        return
    trial = copy.deepcopy(student).to("meta").train()
    dtype = next((p.dtype for p in trial.parameters()), torch.float32)
    try:
        trial(torch.empty(1, dataset.channels, dataset.size, dataset.size, device="meta", dtype=dtype))
    except ValueError as error:
        raise UserError(
            f"the student cannot learn from a batch of one image, which {images:,} images in batches of {batch_size} "
            f"leave{f' one of {processes} processes' if processes > 1 else ''}: {error}; choose another batch_size"
        ) from error
