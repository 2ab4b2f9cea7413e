"""The contract of an architecture: images in [0, 1] in, logits out, weights that can be kept and recognised."""

import copy
import inspect
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.factory import IMAGE_SIZE
from robustdistill.modes import seeded
from robustdistill.store.weights import load_into, read_weights, save_weights
from robustdistill.testing.checks import Check, DoesNotApply, called, hold, spelt, stopped
from robustdistill.testing.problem import Small
from robustdistill.testing.signatures import annotated
from robustdistill.types import Model

CPU = torch.device("cpu")
IMAGES = ((1, 8), (3, 32))  # channels and size of the embedded digits, and of CIFAR
CLASSES = 10


@dataclass(frozen=True)
class ModelCase:
    """An architecture to check, as a record, with the parameters to build it with."""

    model: Model
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def what(self) -> str:
        """Its name in sentences."""
        return self.name or called(self.model.build)

    def build(self, classes: int = CLASSES, seed: int = 0) -> nn.Module:
        """A network in eval mode, its initial weights by `seed`."""
        with seeded(seed, CPU):
            return self._made(classes, *self.image).eval()

    def _made(self, classes: int, channels: int, size: int) -> nn.Module:
        sized = {IMAGE_SIZE: size} if IMAGE_SIZE in inspect.signature(self.model.build).parameters else {}
        return self.model.build(num_classes=classes, in_channels=channels, **sized, **self.params)

    @cached_property
    def image(self) -> tuple[int, int]:
        """Channels and size of the images that it takes: those of the digits, else those of CIFAR."""
        errors = []
        for channels, size in IMAGES:
            try:
                with seeded(0, CPU), torch.no_grad():
                    network = self._made(CLASSES, channels, size)
                    network.eval()(torch.zeros(2, channels, size, size))
                return channels, size
            except Exception as error:
                errors.append(f"{channels} x {size} x {size}: {spelt(error)}")
        raise AssertionError(f"{self.what} takes neither images of the digits nor of CIFAR: {'; '.join(errors)}")

    def images(self, n: int = 3, seed: int = 0) -> Tensor:
        """Noise in [0, 1] in the images' shape."""
        channels, size = self.image
        return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def logits(case: ModelCase) -> None:
    """Maps images of the digits or of CIFAR to one logit a class, for any number of classes."""
    for classes in (CLASSES, 7):
        got = list(case.build(classes)(case.images()).shape)
        hold(got == [3, classes], f"{case.what} gives logits {got} for 3 images and {classes} classes")


def signature(case: ModelCase) -> None:
    """Is built from keywords: `num_classes`, `in_channels`, and parameters with annotations."""
    given = inspect.signature(case.model.build).parameters
    lost = [name for name in ("num_classes", "in_channels") if name not in given]
    hold(not lost, f"{case.what} is not built from {' and '.join(lost)}; the data set gives both by keyword")
    annotated(case.what, case.model.build, {**case.params})


def summary(case: ModelCase) -> None:
    """Has a summary: `list` shows it."""
    hold(case.model.summary, f"{case.what} has no summary; say in a line what it is: Model(build, recognise, summary)")


@torch.no_grad()
def eval_mode(case: ModelCase) -> None:
    """In eval mode gives the same logits again, changes no buffer, and draws nothing."""
    network, x = case.build(), case.images()
    before, rng = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    one, other = network(x), network(x)
    hold(torch.equal(one, other), f"{case.what} answers otherwise the second time, in eval mode")
    moved = [k for k, v in network.state_dict().items() if not torch.equal(v, before[k])]
    hold(not moved, f"{case.what} changes {', '.join(moved)} in eval mode")
    hold(torch.equal(rng, torch.get_rng_state()), f"{case.what} draws from the global random state in eval mode")


@torch.no_grad()
def examples(case: ModelCase) -> None:
    """In eval mode an image's logits do not depend on the others of its batch."""
    network, x = case.build(), case.images()
    whole, alone = network(x)[:1], network(x[:1])
    near = torch.allclose(whole, alone, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    hold(near, f"{case.what} gives an image other logits in another batch, in eval mode; whose statistics are used?")


@torch.no_grad()
def pixels(case: ModelCase) -> None:
    """Gives finite logits for black, white and noisy images in [0, 1]."""
    network, noise = case.build(), case.images()
    for which, x in (("black", torch.zeros_like(noise)), ("white", torch.ones_like(noise)), ("noisy", noise)):
        hold(network(x).isfinite().all(), f"{case.what} gives logits that are not finite for {which} images")


def gradient(case: ModelCase) -> None:
    """Gradients reach every image and some weights, and are finite."""
    network, x = case.build(), case.images().requires_grad_()
    weights = [p for p in network.parameters() if p.requires_grad]
    out = network(x)
    hold(out.requires_grad, f"no gradient goes through {case.what}; a detach or no_grad inside?")
    found = torch.autograd.grad(out.square().sum(), [x, *weights], allow_unused=True)
    reached = found[0] is not None and bool(found[0].flatten(1).any(1).all())
    hold(reached, f"no gradient of {case.what} reaches its images: rounding, a detach or no_grad inside?")
    learned = [g for g in found[1:] if g is not None and g.any()]
    hold(learned, f"no gradient reaches a weight of {case.what}: there is nothing to train")
    hold(all(g.isfinite().all() for g in [found[0], *learned]), f"gradients of {case.what} are not finite")


@torch.no_grad()
def bf16(case: ModelCase) -> None:
    """Gives finite logits under bfloat16 autocast, near those in float32."""
    network, x = case.build(), case.images()
    want = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = network(x.contiguous(memory_format=torch.channels_last)).float()
    hold(got.isfinite().all(), f"{case.what} gives logits that are not finite under bfloat16 autocast")
    far = float((got - want).abs().max() / (want.abs().max() + 1e-6))
    hold(far < 0.25, f"{case.what} is off by {far:.0%} under bfloat16 autocast")


def initial(case: ModelCase) -> None:
    """Gets initial weights that torch's seed alone decides."""
    one, other, third = case.build(seed=1), case.build(seed=1), case.build(seed=2)
    same = all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    hold(same, f"{case.what} gets other initial weights from the same seed; draw them by torch alone")
    differ = any(not torch.equal(a, b) for a, b in zip(one.parameters(), third.parameters(), strict=True))
    hold(differ, f"{case.what} gets the same initial weights from every seed; does it seed torch itself?")


@torch.no_grad()
def weights(case: ModelCase) -> None:
    """Is the same after its weights were saved, read and loaded; and after a deep copy."""
    network, x, other = case.build(seed=1), case.images(), case.build(seed=2)
    want = network(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, network.state_dict())
        try:
            load_into(other, read_weights(path), case.what)
        except Exception as error:
            raise AssertionError(f"the weights of {case.what} do not load into a fresh one: {error}") from error
    for how, copied in (("its weights loaded into a fresh one", other), ("a deep copy", copy.deepcopy(network))):
        near = torch.allclose(copied(x), want, rtol=1e-4, atol=1e-5)
        hold(near, f"{how} answer otherwise than {case.what} itself; some of its state is not in state_dict()")


def recognise(case: ModelCase) -> None:
    """Recognises its own weights, by parameters that build them again, and no stranger's."""
    if case.model.recognise is None:
        raise DoesNotApply("it does not recognise weights")
    own = {k: v for k, v in case.build().state_dict().items() if not k.endswith("num_batches_tracked")}
    found = case.model.recognise(dict(own))
    if found is None:
        raise AssertionError(f"{case.what} does not recognise its own weights (without num_batches_tracked)")
    with torch.device("meta"):
        again = case.model.build(num_classes=CLASSES, in_channels=case.image[0], **found).state_dict()
    same = all(k in again and again[k].shape == v.shape for k, v in own.items())
    hold(same, f"{case.what} recognises its own weights as {dict(found)}, which builds other shapes")
    for stranger in ({}, dict(Small().state_dict()), {"layer.weight": torch.zeros(3, 3)}):
        claimed = case.model.recognise(stranger)
        hold(claimed is None, f"{case.what} takes weights named {', '.join(stranger) or 'nothing'} for its own")


def meta(case: ModelCase) -> None:
    """Is built and runs on device meta, in train mode too: it asks the host for no value."""
    channels, size = case.image
    try:
        network = copy.deepcopy(case.build()).to("meta")
        network.train()(torch.empty(2, channels, size, size, device="meta"))
    except Exception as error:
        instead = "no .item(), `if v` or v[mask], and make new tensors on the device of the input"
        raise stopped(case.what, error, instead) from error


MODEL_CHECKS: tuple[Check[ModelCase], ...] = (
    signature,
    summary,
    logits,
    eval_mode,
    examples,
    pixels,
    gradient,
    bf16,
    initial,
    weights,
    recognise,
    meta,
)
