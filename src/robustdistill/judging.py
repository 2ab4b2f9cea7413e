"""What `eval` does: find the network and the images, run the attacks, keep the verdicts."""

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill import __version__, assemble
from robustdistill.checks import check_modules, check_size
from robustdistill.engine.execution import pick_device
from robustdistill.engine.work import forward_flops
from robustdistill.errors import UserError
from robustdistill.evaluation import suite
from robustdistill.evaluation.alarms import Alarm
from robustdistill.evaluation.checks import check_images, check_labels
from robustdistill.evaluation.curves import Point
from robustdistill.evaluation.diagnostics import diagnose
from robustdistill.evaluation.examples import examples
from robustdistill.evaluation.keep import Keep, fingerprint
from robustdistill.evaluation.verdict import Verdict, worst
from robustdistill.exported import refuse_unjudged
from robustdistill.quantities import radius_of
from robustdistill.registry import Registry, default_registry
from robustdistill.surroundings import driven
from robustdistill.targets import Target, find_target
from robustdistill.types import Attack, Dataset, Split, Watch
from robustdistill.world import current, join

NONE: Mapping[str, Any] = {}
CHECKED = "pgd"  # the attack whose gradients are checked
DEFAULT_ATTACKS = ("clean", "fgsm", "pgd", "pgd-trades", "cw")


def evaluate(
    model: nn.Module | str | Path,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    data: str | None = None,
    data_dir: str | Path | None = None,
    n: int | None = None,
    eps: float | str | None = None,
    seed: int | None = None,
    batch_size: int = suite.BATCH,
    device: str = "auto",
    registry: Registry | None = None,
) -> Iterator[Verdict]:
    """Judges a network under each attack by name, then under all of them together (`worst`).

    `model`: a module, a run directory, a checkpoint, a teacher's name, a file of weights, ARCH@FILE, or a
    name of timm's (`timm:NAME`, `hf-hub:USER/REPO`, `local-dir:FOLDER`).
    `images` (uint8, or float in [0, 1]) with `labels`, or else the test images of `data`, `n` at most. A module
    needs `data`, or images, labels and `eps`; it comes back as and where it was. `eps` is the L-inf radius in
    [0, 1] ("8/255" works), by default that of the run or of the data set. `batch_size` images go through the network
    at once, fewer when memory runs out. Processes that torchrun started share the images and come to the same verdicts.
    Raises UserError for what cannot be judged. Iterate to drive it: one `Verdict` an attack.
    """
    join()
    registry = registry or default_registry()
    if isinstance(model, nn.Module) and data is None and (images is None or eps is None):
        raise UserError("a module does not say what it is for: give data=NAME, or images, labels and eps")
    if isinstance(attacks, str):
        raise UserError(f"attacks is a list of names; write attacks={attacks.split(',')}")
    how = {"n": n, "eps": eps, "seed": seed, "batch_size": batch_size, "device": device}
    yield from driven(_evaluate(model, images, labels, attacks, data, data_dir, registry, how))


def _evaluate(
    model: nn.Module | str | Path,
    images: Tensor | None,
    labels: Tensor | None,
    attacks: Sequence[str],
    data: str | None,
    data_dir: str | Path | None,
    registry: Registry,
    how: Mapping[str, Any],
) -> Generator[Verdict, None, None]:
    chosen = chosen_attacks(attacks, registry)
    check_options(how["n"], how["eps"], how["batch_size"], how["device"])
    target = current().one_by_one(lambda: find_target(model, registry, data, data_dir))
    at = current().one_by_one(lambda: case(target, registry, images, labels, **how))
    if data is not None or not isinstance(model, nn.Module):
        check_size(at.x, registry.dataset(target.data, target.directory), target.data)
    yield from at.verdicts(chosen)


@dataclass(frozen=True)
class Case:
    """A network before its judges: on which images, within which radius, from which seed, on which device."""

    target: Target
    x: Tensor
    y: Tensor
    eps: float
    seed: int
    device: torch.device
    registry: Registry
    batch_size: int

    def verdict(self, name: str, attack: Attack, keep: Keep | None = None, watch: Watch | None = None) -> Verdict:
        """What one attack leaves. What `keep` holds is not judged again."""
        with self._there() as network:
            return suite.judge(network, self.x, self.y, name, attack, keep=keep, watch=watch, **self._how)

    def verdicts(
        self,
        attacks: Mapping[str, Attack],
        keep: Keep | None = None,
        watch: Callable[[str], Watch | None] = lambda _: None,
    ) -> Iterator[Verdict]:
        """What each attack leaves, and at the end, of several, what all of them leave together (`worst`).

        `watch(name)` is asked before an attack begins for what is to hear of its batches.
        """
        found = []
        for name, attack in attacks.items():
            found.append(self.verdict(name, attack, keep, watch(name)))
            yield found[-1]
        if len(found) > 1:
            yield worst(found)

    def checked(self, verdicts: Sequence[Verdict], n: int) -> "Checks":
        """Whether gradients led the attacks astray, on the first `n` images; `verdicts` are those already there."""
        few = replace(self, x=self.x[:n], y=self.y[:n])
        attack = chosen_attacks([CHECKED], self.registry)[CHECKED]
        known = {v.attack: replace(v, correct=v.correct[:n], labels=v.labels[:n]) for v in verdicts}

        def looked() -> Checks:
            with self._there() as network:
                points, alarms = diagnose(network, few.x, few.y, attack, known, **self._how)
                return Checks(points, alarms, examples(network, few.x, few.y, attack, **self._how))

        return current().on_first(looked)

    def flops(self) -> float:
        """Operations of a forward of one image."""
        return forward_flops(self.target.network, (1, *self.x.shape[1:]))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A name for all that decides the verdicts but the attacks: weights, images, radius, seed, versions, device."""
        facts = (__version__, torch.__version__, self.device.type, self.eps, self.seed)
        return fingerprint(self.target.network, self.x, self.y, *map(str, facts))

    @property
    def _how(self) -> dict[str, Any]:
        make = assemble.judging_generator(self.seed, self.device, self.registry)
        return {"eps": self.eps, "generator": make, "at_once": self.batch_size}

    @contextmanager
    def _there(self) -> Iterator[nn.Module]:
        home = next((p.device for p in self.target.network.parameters()), self.device)
        try:
            yield self.target.network.to(self.device)
        finally:
            self.target.network.to(home)


@dataclass(frozen=True)
class Checks:
    """What `Case.checked` found: robustness curves, alarms of masked gradients, and a few images before and after."""

    points: Sequence[Point]
    alarms: Sequence[Alarm]
    examples: Mapping[str, Tensor]

    def plain(self) -> dict[str, Any]:
        """Alarms and curves as JSON values."""
        return {"alarms": [a.sentence for a in self.alarms], "curves": [p.plain() for p in self.points]}


def case(
    target: Target,
    registry: Registry,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int | None,
    eps: float | str | None,
    seed: int | None,
    batch_size: int,
    device: str,
) -> Case:
    """A target ready to be judged; options as in `evaluate`. Images come first, then a network to be downloaded."""
    check_options(n, eps, batch_size, device)
    dataset: Dataset = registry.dataset(target.data, target.directory)
    radius, where = radius_of(eps if eps is not None else target.eps or dataset.eps), pick_device(device)
    x, y = _images(images, labels, dataset, target, n)
    check_modules({"the model": target.network})
    refuse_unjudged("the model", target.network)
    return Case(target, x, y, radius, target.seed if seed is None else seed, where, registry, batch_size)


def check_options(n: int | None, eps: float | str | None, batch_size: int, device: str) -> None:
    """UserError for what cannot be, whatever is judged: first of all, as a teacher may have to be downloaded."""
    for what, number in (("n", n), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise UserError(f"{what} = {number}: at least one image must be judged")
    pick_device(device)
    if eps is not None:
        radius_of(eps)


def chosen_attacks(
    names: Sequence[str], registry: Registry, given: Mapping[str, Mapping[str, Any]] = NONE
) -> dict[str, Attack]:
    """The attacks by name with their parameters complete, those `given` by name included; `clean` comes first."""
    ordered = ["clean", *(n for n in dict.fromkeys(names) if n != "clean")]
    attacks = {name: registry.get("attack", name) for name in ordered}
    return {
        name: replace(a, params=registry.params("attack", name, given.get(name, NONE), name))
        for name, a in attacks.items()
    }


def _images(
    images: Tensor | None, labels: Tensor | None, dataset: Dataset, target: Target, n: int | None
) -> tuple[Tensor, Tensor]:
    if (images is None) != (labels is None):
        raise UserError("images and labels come together: give both, or neither for the data set's test images")
    if images is None or labels is None:
        split: Split = assemble.load_data(dataset, target.data, target.directory).test
        images, labels = split.images, split.labels
    check_images(images)
    check_labels(labels, len(images))
    x, y = images[:n], labels[:n]
    return (x.clone(), y.clone()) if x.is_inference() else (x, y)  # those of inference_mode take no gradients
