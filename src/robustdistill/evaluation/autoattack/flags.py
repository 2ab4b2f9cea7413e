"""What must not be judged is refused; what makes a verdict doubtful is noted, in a sentence."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from robustdistill.errors import UserError
from robustdistill.evaluation.autoattack.losses import DLR_CLASSES, gradient, margin
from robustdistill.evaluation.checks import check_images, check_labels, check_logits
from robustdistill.logits import Forward
from robustdistill.types import Stage

TARGETS = 9
MISSED, FEW = 0.002, 2  # Square breaks more than 0.2 % of the images, as in the official code, and more than two


def checked(forward: Forward, x: Tensor, y: Tensor, eps: float, physical: int) -> tuple[Tensor, Tensor]:
    """The images as floats in [0, 1] and the labels beside them; UserError for what cannot be judged."""
    check_images(x)
    check_labels(y, len(x))
    if not 0 <= eps < 1:
        raise UserError(f"eps {eps:g} is no radius for pixels in [0, 1]; did you mean {eps:g}/255?")
    if getattr(forward, "training", False):
        raise UserError("the model is in train mode, where a verdict depends on the batch; call model.eval() first")
    x = x / 255 if x.dtype == torch.uint8 else x if x.dtype == torch.float64 else x.float()
    y = y.to(x.device)
    for images, labels in zip(torch.split(x, physical), torch.split(y, physical), strict=True):
        check_logits(forward, images, labels)
    return x, y


def of_model(forward: Forward, x: Tensor, y: Tensor) -> Iterator[str]:
    """Doubts that one batch shows: too few classes, random or squashed outputs, gradients that vanish."""
    logits = forward(x)
    if (classes := logits.shape[1]) <= TARGETS:
        yield f"with {classes} classes APGD-T and FAB-T have {classes - 1} targets, not {TARGETS}"
    if classes < DLR_CLASSES:
        yield f"the targeted DLR loss needs {DLR_CLASSES} classes: APGD-T ascends the plain margin z_t - z_y"
    again = torch.stack([forward(x) for _ in range(4)])
    if bool(((again - logits).norm(dim=2) > 1e-4 * logits.norm(dim=1)).any()):
        yield "the same images give other logits each time: a random defence needs attacks that average over it"
    if bool((logits >= 0).all() and ((logits.sum(dim=1) - 1).abs() < 1e-5).all()):
        yield "the outputs look like probabilities: gradients vanish where they saturate; give the logits"
    _, _, grad = gradient(forward, lambda logits, y, _: margin(logits, y), x, y, y)
    if n := int((grad.flatten(1) == 0).all(dim=1).sum()):
        yield f"{n} of the first {len(x)} images have no gradient at all: attacks that need one may fail"


def of_attack(attack: str, n: int) -> Iterator[str]:
    """`n` images that an attack took for broken and a fresh forward did not."""
    if n:
        yield f"{attack} took {n} images for broken that a fresh forward classifies right: they stand"


def of_end(regained: Tensor) -> Iterator[str]:
    """The same once more at the end."""
    if n := int(regained.sum()):
        yield f"{n} broken images were classified right at the end: they stand, and the model is not deterministic"


def of_stages(stages: Sequence[Stage]) -> Iterator[str]:
    """Square breaks what three gradient attacks left: the sign of gradients that mislead."""
    for before, after in itertools.pairwise(stages):
        found, n = int((before.correct & ~after.correct).sum()), len(after.correct)
        if after.name == "square" and found > max(MISSED * n, FEW):
            yield (
                f"Square broke {found} of {n} images that the gradient attacks left: gradients may be masked; "
                "try more queries or an adaptive attack"
            )
