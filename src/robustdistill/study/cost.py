"""What a study will compute, before anything of it starts: counted on device meta, without images or weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from robustdistill import assemble, hub
from robustdistill.engine.dryrun import STUDENT
from robustdistill.engine.execution import BF16_FLOPS
from robustdistill.engine.work import forward_flops, work_of
from robustdistill.errors import RobustDistillError
from robustdistill.factory import built
from robustdistill.judging import chosen_attacks
from robustdistill.located import locate_teacher
from robustdistill.naming import dataset_of, registered
from robustdistill.registry import Registry
from robustdistill.spec import Node, RunSpec
from robustdistill.study.items import Item
from robustdistill.study.plan import Judging
from robustdistill.targets import DEFAULT_DATA
from robustdistill.types import Attack, Dataset


@dataclass(frozen=True)
class Speed:
    """Operations a second, in training and in judging."""

    training: float
    judging: float


H100 = Speed(training=3e14, judging=3e13)
"""Training: prototypes of MMARD's and RSLAD's steps from a WRN-34-10 in bf16, recorded as CUDA graphs, reached 3.7e14
and 2.3e14 on one H100. Judging, in fp32 without TF32: about half of what it offers; not measured."""
CORE = Speed(training=2.9e10, judging=3.1e10)
"""One core of an AMD EPYC, one thread, fp32, torch 2.14, seconds of the process: SAT's steps on an RN-18 in batches of
16, and the gradient of 50 images at once."""
TINY = Speed(training=7e9, judging=9e9)
"""The same core with students below `BF16_FLOPS`: four epochs on the digits in batches of 64 made 1.0e10 (MMARD), 7.4e9
(RSLAD), 6.2e9 (SAT) and 5.2e9 (natural); 250 images at once 4.2e9 to 2.4e10, by the width of the digits-net."""


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of training, selection included, and of judging; `core_seconds` those of one CPU core
    for them. `unknown` counts the runs that could not be estimated.
    """

    training: float = 0.0
    judging: float = 0.0
    core_seconds: float = 0.0
    unknown: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.training + other.training,
            self.judging + other.judging,
            self.core_seconds + other.core_seconds,
            self.unknown + other.unknown,
        )

    def seconds(self, speed: Speed) -> float:
        """At `speed`."""
        return self.training / speed.training + self.judging / speed.judging

    @property
    def gpu_hours(self) -> float:
        """Hours of one H100."""
        return self.seconds(H100) / 3600


def of_a_core(student: float) -> Speed:
    """The speed of one core, by the operations of the student's forward of an image."""
    return TINY if student < BF16_FLOPS else CORE


def cost(items: Sequence[Item], ask: Judging, registry: Registry) -> Cost:
    """An upper bound for `items`: as if no attack broke any image. Runs that differ in their seed cost the same.

    Building networks, compiling and recording them, and reading images are not in it.
    """
    keys = [_key(item) for item in items]
    counter = _Counter(ask, registry)
    costs = {key: counter.cost(item) for key, item in dict(zip(keys, items, strict=True)).items()}
    return sum((costs[key] for key in keys), Cost())


def _key(item: Item) -> str:
    return item.spec.model_copy(update={"seed": 0}).hash() if item.spec else item.id


class _Counter:
    """Counts what runs compute, the forward of each network once."""

    def __init__(self, ask: Judging, registry: Registry) -> None:
        self.ask, self.registry = ask, registry
        self.forwards: dict[tuple[str, ...], float] = {}

    def cost(self, item: Item) -> Cost:
        try:
            return self._of_run(item.spec) if item.spec else self._of_target(item)
        except RobustDistillError:  # a file that is not there yet; the run itself will say what is wrong
            return Cost(unknown=1)

    def _of_target(self, item: Item) -> Cost:
        data = item.data or {}
        name, _ = self.registry.placed(data.get("name") or dataset_of([item.target], self.registry) or DEFAULT_DATA)
        dataset: Dataset = self.registry.dataset(name, data.get("dir"))
        forward = self._teacher(Node(name=registered(item.target, name, self.registry)), name, dataset)
        return _counted(0.0, self._judged(_images(dataset, name, data.get("dir"))[2]) * forward, forward)

    def _of_run(self, spec: RunSpec) -> Cost:
        name, dataset = spec.data.name, self.registry.dataset(spec.data.name, spec.data.dir)
        # How often a step runs which network is up to the method: any student tells, and a small one at once.
        reads = assemble.plan(spec, _stand_in(dataset), dataset, self.registry)
        flops = {role: self._teacher(spec.teachers[role], name, dataset) for role in reads.roles}
        flops[STUDENT] = student = self._student(spec.student, name, dataset)
        train, holdout, test = _images(dataset, name, spec.data.dir)
        if spec.select.split == "test":
            train, holdout = train + holdout, test
        steps = min(-(-train // spec.batch_size), spec.limit_batches or train)
        work = work_of(reads, flops, spec.batch_size, spec.epochs * steps)
        selecting = _passes(chosen_attacks(["clean", spec.select.attack], self.registry))
        looks = -(-spec.epochs // spec.select.every) * min(holdout, spec.select.n or holdout) + 2 * test
        return _counted(work.total + looks * selecting * student, self._judged(test) * student, student)

    def _judged(self, test: int) -> float:
        """Forwards under the attacks that the study asks for."""
        return min(test, self.ask.n or test) * _passes(chosen_attacks(self.ask.attacks, self.registry))

    def _student(self, node: Node, data: str, dataset: Dataset) -> float:
        return self._forward(("student", str(node), data), dataset, lambda: _untrained(node, dataset, self.registry))

    def _teacher(self, node: Node, data: str, dataset: Dataset) -> float:
        return self._forward(("teacher", str(node), data), dataset, lambda: _shape(node, data, dataset, self.registry))

    def _forward(self, key: tuple[str, ...], dataset: Dataset, network: Callable[[], nn.Module]) -> float:
        """Operations of one forward of an image."""
        if key not in self.forwards:
            self.forwards[key] = forward_flops(network(), (1, dataset.channels, dataset.size, dataset.size))
        return self.forwards[key]


def _counted(training: float, judging: float, forward: float) -> Cost:
    speed = of_a_core(forward)
    return Cost(training, judging, training / speed.training + judging / speed.judging)


def _untrained(node: Node, dataset: Dataset, registry: Registry) -> nn.Module:
    with torch.device("meta"):
        return built(node, registry, **dataset.sizes)


def _shape(node: Node, data: str, dataset: Dataset, registry: Registry) -> nn.Module:
    """A teacher without its weights, wherever its name says what it is; else its file does."""
    if not hub.names(node.name):
        found = locate_teacher(node, registry, data)
        if found.arch:
            return assemble.shape_of(found.arch, found.params, node, dataset, registry)
    return assemble.build_teacher(node, dataset, registry, data)


def _stand_in(dataset: Dataset) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dataset.channels, len(dataset.classes)))


def _images(dataset: Dataset, name: str, directory: str | None) -> tuple[int, int, int]:
    """How many train, hold-out and test images there are; of a CIFAR as many as ever, wherever it lies."""
    if dataset.downloads:
        return dataset.downloads
    splits = assemble.load_data(dataset, name, directory)
    return len(splits.train), len(splits.holdout), len(splits.test)


def _passes(attacks: dict[str, Attack]) -> int:
    """Forwards of an image, a gradient counted as one more, under all of these."""
    return sum(a.passes or 2 * int(a.params.get("steps", 0)) + 1 for a in attacks.values())
