"""Inputs that must not be judged: each is refused with its cause."""

import torch
from torch import Tensor

from robustdistill.errors import UserError
from robustdistill.logits import Forward


def check_images(x: Tensor) -> None:
    """Images are `[N, C, H, W]`, not empty, uint8 or finite floats in [0, 1]."""
    if not isinstance(x, Tensor):
        raise UserError(f"images must be a torch.Tensor; got {type(x).__name__}: use torch.as_tensor(images)")
    if x.dim() != 4 or len(x) == 0:
        raise UserError(f"images must be [N, C, H, W] with N > 0; got {list(x.shape)}")
    if x.dtype == torch.uint8:
        if int(x.amax()) == 1:
            raise UserError("all pixels are 0 or 1 where uint8 has 255 for white; scale them before they become uint8")
        return
    if not x.is_floating_point():
        raise UserError(f"images must be uint8 or floats in [0, 1]; got {x.dtype}")
    broken = int((~x.isfinite()).sum())
    if broken:
        raise UserError(f"pixels must lie in [0, 1]; {broken:,} of {x.numel():,} are NaN or infinite")
    low, high = float(x.amin()), float(x.amax())
    if not (low >= 0 and high <= 1):
        hint = "divide by 255" if low >= 0 and high > 2 else "normalisation belongs inside the model"
        raise UserError(f"pixels must lie in [0, 1]; got [{low:.3g}, {high:.3g}]: {hint}")
    if 0 < high <= 1 / 255:
        raise UserError(f"no pixel is above 1/255 (the brightest is {high:.3g}): the images were divided by 255 twice")


def check_labels(y: Tensor, n: int) -> None:
    """Labels are int64 class indices `[N]`."""
    if not isinstance(y, Tensor):
        raise UserError(f"labels must be a torch.Tensor; got {type(y).__name__}: use torch.as_tensor(labels)")
    if y.dtype != torch.int64 or y.dim() != 1 or len(y) != n:
        hint = ": one-hot? use labels.argmax(dim=1)" if y.dim() == 2 else ""
        raise UserError(f"labels must be {n} class indices of dtype int64; got {list(y.shape)} of {y.dtype}{hint}")


def check_logits(network: Forward, x: Tensor, y: Tensor) -> None:
    """The network takes these images and gives finite logits for at least every label's class."""
    try:
        with torch.no_grad():
            logits = network(x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UserError(f"the model does not take images {list(x.shape[1:])}: {error}") from error
    if logits.dim() != 2 or len(logits) != len(x):
        raise UserError(f"the model must return logits [N, classes]; got {list(logits.shape)} for {len(x)} images")
    if not bool(torch.isfinite(logits).all()):
        raise UserError("the model's logits are not finite on clean images; its verdicts would mean nothing")
    if int(y.max()) >= logits.shape[1] or int(y.min()) < 0:
        reach = f"{int(y.min())} to {int(y.max())}"
        raise UserError(f"labels reach from {reach} and the model has {logits.shape[1]} classes, numbered from 0")
