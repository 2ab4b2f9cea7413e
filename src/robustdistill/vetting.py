"""Teachers are looked at once before a run, on images that it will learn from: do they give logits, are they right?

A teacher whose classes or colours are ordered differently, or whose images are normalised twice, raises no error by
itself: the student learns its mistakes.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor, nn

from robustdistill.data.keys import key
from robustdistill.data.loader import scaled
from robustdistill.data.window import gather
from robustdistill.engine.execution import Execution
from robustdistill.engine.forwards import forward_of
from robustdistill.errors import UserError
from robustdistill.evaluation.looks import probabilities
from robustdistill.losses import full_precision
from robustdistill.modes import seeded, untouched
from robustdistill.naming import called
from robustdistill.registry import Registry
from robustdistill.spec import RunSpec
from robustdistill.types import Split, Teacher

LOG = logging.getLogger("robustdistill")
IMAGES = 500
SHORT = 0.03  # of accuracy, below what is stated: more than another number format or another way to resize explains
LUCK, DOUBT = 1e-4, 1e-2  # how rarely a teacher as good as stated is stopped, or doubted, by mere bad luck
NEAR = 0.10  # of accuracy: a change that brings a teacher so near to what is stated may be what it lacks
A_CLASS = 5  # images of each class, on average, from which on an order of classes can be told from luck
GENERAL = (
    "look for another order of classes or colours, pixels of another range, and a normalisation that is missing or "
    "done twice"
)

Change = Callable[[Tensor], Tensor]


def vet(
    spec: RunSpec,
    teachers: Mapping[str, nn.Module],
    learned: Sequence[Split],
    classes: int,
    how: Execution,
    registry: Registry,
) -> list[str]:
    """Sentences on teachers that are hardly better than guessing, or some points worse than stated. UserError for one
    that gives no logits, or that is clearly less accurate than its registry entry states.

    How right a teacher is of which nothing is stated goes to the log `robustdistill`. Each looks at up to 500 of the
    images of `learned`, no more than `limit_batches` leaves the run, spread evenly. Nothing of the run is changed, its
    randomness included. Costs one forward an image; where a teacher is found wanting up to six more, to say why.
    """
    some = _some(spec, learned)
    seen = [
        _Look(role, spec, network, some, classes, how).verdict(stated(spec, role, registry))
        for role, network in teachers.items()
    ]
    return [sentence for sentence in seen if sentence]


def stated(spec: RunSpec, role: str, registry: Registry) -> float | None:
    """The clean accuracy that the registry states for the teacher of a role, NAME or NAME@FILE; None where it states
    none, or none for this data set. An architecture's name is a teacher's where that teacher is of this architecture.
    """
    name, at, _ = spec.teachers[role].name.partition("@")
    key = called(name, registry).get(spec.data.name)
    known: Teacher | None = registry.get("teacher", key) if key else None
    other = at and key != name and registry.knows("model", name)
    return None if known is None or other else known.clean


def falls_short(right: int, n: int, clean: float, luck: float = LUCK) -> bool:
    """Whether `right` of `n` images are three points or more below `clean`, and P(K <= right) < `luck` for
    K ~ Binomial(n, clean): whether a teacher that is as good as stated gives so few less often than `luck`.

    What is stated is the accuracy on test images, and these are images to learn from, mostly the teacher's own, on
    which it is better: its real error rates are lower. Of 500 images, where 85 % are stated, 6.4 points too few stop a
    run. So does a teacher that is worse by 5, 8, 10, 12 points: in 23, 82, 97, 99.8 % of all cases; DOUBT speaks of it
    in 73, 99, 99.9, 100 %.
    """
    odds = sum(comb(n, k) * clean**k * (1 - clean) ** (n - k) for k in range(right + 1))
    return clean - right / n >= SHORT and odds < luck


def _some(spec: RunSpec, learned: Sequence[Split]) -> Split:
    size = sum(map(len, learned))
    n = min(IMAGES, size if spec.limit_batches is None else spec.limit_batches * spec.batch_size, size)
    rows = torch.arange(n) * size // n  # spread: a data set may be sorted by class
    images, labels = [part.images for part in learned], [part.labels for part in learned]
    return Split(
        gather(images, rows, images[0].new_empty(n, *images[0].shape[1:])), gather(labels, rows, labels[0].new_empty(n))
    )


@dataclass(frozen=True)
class _Look:
    """One teacher before some images."""

    role: str
    spec: RunSpec
    network: nn.Module
    some: Split
    classes: int
    how: Execution

    @property
    def who(self) -> str:
        name = self.spec.teachers[self.role].name
        return f"teacher {name!r}" + (f" ({self.role})" if len(self.spec.teachers) > 1 else "")

    def verdict(self, clean: float | None) -> str | None:
        """What to announce; raises what stops the run."""
        z = self.logits()
        self._refuse_no_logits(z)
        accuracy, chance, n = self.accuracy(z), 1 / self.classes, len(self.some)
        found = f"{self.who} is right on {100 * accuracy:.1f} % of {n} training images"
        if clean is not None:
            if not falls_short(right := round(accuracy * n), n, clean, DOUBT):
                return None
            other = "; if it is another network than that, give its file alone: --teacher FILE" if self._brought else ""
            told = f"{found} and {100 * clean:.1f} % is stated for it"
            cause = f"{self.cause(z, accuracy, clean - NEAR)}{other}"
            if falls_short(right, n, clean):
                raise UserError(f"{told}: {cause}")
            return f"{told}, which would be bad luck in one run of {1 / DOUBT:.0f}; if it is not, {cause}"
        if accuracy >= chance + (1 - chance) / 10 + 2 * (chance * (1 - chance) / n) ** 0.5:
            LOG.warning("%s; nothing is stated of it to hold that against", found)
            return None
        return f"{found}; guessing gives {100 * chance:.1f} %: {self.cause(z, accuracy, (1 + chance) / 2)}"

    @property
    def _brought(self) -> bool:
        return "@" in self.spec.teachers[self.role].name

    def _refuse_no_logits(self, z: Tensor) -> None:
        broken = int((~z.isfinite().all(dim=1)).sum())
        if broken:
            raise UserError(f"{self.who} gives logits that are not finite on {broken} of {len(z)} training images")
        if self.classes > 1 and probabilities(z):
            raise UserError(
                f"{self.who} gives probabilities, not logits: its outputs are not negative and sum to 1 on all "
                f"{len(z)} training images; leave out its softmax, or return their logarithm"
            )

    # ---- why ------------------------------------------------------------------------------------------------
    def cause(self, z: Tensor, accuracy: float, good: float) -> str:
        """The change that makes the teacher `good`, in words; else what it looks like."""
        best, what = max((self.accuracy(self.logits(change)), what) for what, change in self._changes())
        if best >= max(good, accuracy + SHORT):
            return f"{what} ({100 * best:.1f} % then)"
        renamed = self._renamed(z)
        if renamed >= max(good, accuracy + NEAR):  # where few images have a class, some gain is luck
            return f"its classes are in another order than the data's ({100 * renamed:.1f} % when renamed)"
        if len(set(z.argmax(dim=1).tolist())) == 1:
            return "it names one class for all of them; look for pixels of another range and for its normalisation"
        return GENERAL

    def _changes(self) -> Iterator[tuple[str, Change]]:
        """What may have to be done to images `[B, C, H, W]` in [0, 1] to be what a teacher takes, and what it means."""
        x = scaled(self.some.images, self.how.dtype)
        mean = x.mean(dim=(0, 2, 3), keepdim=True).to(self.how.device)
        std = x.std(dim=(0, 2, 3), keepdim=True).to(self.how.device).clamp(min=1e-3)
        yield "it takes pixels from 0 to 255; the run's are in [0, 1]: divide inside it", lambda v: v * 255
        yield "it makes pixels 255 times larger than they should be: leave that out", lambda v: v / 255
        yield "it takes pixels from -1 to 1; the run's are in [0, 1]: scale them inside it", lambda v: 2 * v - 1
        yield "it takes normalised images and the run's are plain: normalise inside it", lambda v: (v - mean) / std
        yield "it normalises images twice: leave one of them out", lambda v: v * std + mean
        if x.shape[1] == 3:
            yield "it takes colours as blue, green, red: turn them round inside it", lambda v: v.flip(1)

    def _renamed(self, z: Tensor) -> float:
        """The accuracy if each class that the teacher names is taken for the label that it goes with most."""
        if len(z) < A_CLASS * self.classes:
            return 0.0
        pairs = torch.zeros(self.classes, self.classes)
        pairs.index_put_((z.argmax(dim=1), self.some.labels), torch.ones(len(z)), accumulate=True)
        most, label = pairs.max(dim=1)
        named = label[most > 0].tolist()
        return float(most.sum()) / len(z) if len(set(named)) == len(named) else 0.0

    # ---- what it says -----------------------------------------------------------------------------------------
    def accuracy(self, z: Tensor) -> float:
        """Fraction of the images that the logits `z` are right about."""
        return float((z.argmax(dim=1) == self.some.labels).double().mean())

    def logits(self, change: Change | None = None) -> Tensor:
        """What the teacher says of the images, `[N, C]` on the CPU, a batch of the run at a time."""
        forward, device = forward_of(self.network, self.how), self.how.device
        with torch.no_grad(), seeded(key(self.spec.seed, "vet", self.role), device), untouched(self.network):
            parts = []
            for images in torch.split(self.some.images, self.spec.batch_size):
                x = scaled(images.to(device), self.how.dtype)
                parts.append(full_precision(forward(change(x) if change else x)).cpu())
        return torch.cat(parts)
