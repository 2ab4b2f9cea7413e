"""What a study will compute, before anything of it starts: counted on device meta, without images or weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from robustdistill import assemble, hub
from robustdistill.engine.work import estimate, forward_flops
from robustdistill.errors import RobustDistillError
from robustdistill.factory import built
from robustdistill.judging import chosen_attacks
from robustdistill.located import locate_teacher
from robustdistill.registry import Registry
from robustdistill.spec import RunSpec
from robustdistill.study.items import Item
from robustdistill.study.plan import Judging
from robustdistill.types import Attack, Dataset

TRAINING = 3e14
"""Operations a second of training on one H100: prototypes of MMARD's and RSLAD's steps from a WRN-34-10, in bf16 and
recorded as CUDA graphs, reached 3.7e14 and 2.3e14."""
JUDGING = 3e13
"""Operations a second of judging in fp32 without TF32: about half of what one H100 offers; not measured."""


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of training and of judging; `unknown` counts the runs that could not be estimated."""

    training: float = 0.0
    judging: float = 0.0
    unknown: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.training + other.training, self.judging + other.judging, self.unknown + other.unknown)

    @property
    def gpu_hours(self) -> float:
        """Hours of one H100 at `TRAINING` and `JUDGING`."""
        return (self.training / TRAINING + self.judging / JUDGING) / 3600


def cost(items: Sequence[Item], ask: Judging, registry: Registry) -> Cost:
    """An upper bound for `items`: as if no attack broke any image. Runs that differ in their seed cost the same."""
    keys = [_key(item) for item in items]
    costs = {key: _cost(item, ask, registry) for key, item in dict(zip(keys, items, strict=True)).items()}
    return sum((costs[key] for key in keys), Cost())


def _key(item: Item) -> str:
    return item.spec.model_copy(update={"seed": 0}).hash() if item.spec else item.id


def _cost(item: Item, ask: Judging, registry: Registry) -> Cost:
    if item.spec is None:  # which network that is is known when it is there
        return Cost(unknown=1)
    try:
        return _of_run(item.spec, ask, registry)
    except RobustDistillError:  # a file that is not there yet; the run itself will say what is wrong
        return Cost(unknown=1)


def _of_run(spec: RunSpec, ask: Judging, registry: Registry) -> Cost:
    dataset: Dataset = registry.dataset(spec.data.name, spec.data.dir)
    with torch.device("meta"):
        student = built(spec.student, registry, **dataset.sizes)
    reads = assemble.plan(spec, student, dataset, registry)
    teachers = {role: _shape(spec, role, dataset, registry) for role in reads.roles}
    image = (dataset.channels, dataset.size, dataset.size)
    train, holdout, test = _images(spec, dataset)
    steps = min(-(-train // spec.batch_size), spec.limit_batches or train)
    work = estimate(reads, student, teachers, image, spec.batch_size, spec.epochs * steps)
    attacks = chosen_attacks(ask.attacks, registry)
    selecting = chosen_attacks(["clean", spec.select.attack], registry)
    looks = -(-spec.epochs // spec.select.every) * min(holdout, spec.select.n or holdout) * _passes(selecting)
    judged = min(test, ask.n or test) * _passes(attacks) + 2 * test * _passes(selecting)
    return Cost(work.total + looks * work.student, judged * forward_flops(student, (1, *image)))


def _shape(spec: RunSpec, role: str, dataset: Dataset, registry: Registry) -> torch.nn.Module:
    node = spec.teachers[role]
    if not hub.names(node.name):
        found = locate_teacher(node, registry, spec.data.name)
        if found.arch:
            return assemble.shape_of(found.arch, found.params, node, dataset, registry)
    return assemble.build_teacher(node, dataset, registry, spec.data.name)  # its file says what it is


def _images(spec: RunSpec, dataset: Dataset) -> tuple[int, int, int]:
    """How many are learned from, select, and are judged in the end."""
    if spec.data.dir is None and dataset.downloads:
        train, holdout, test = dataset.downloads
    else:
        splits = assemble.load_data(dataset, spec.data.name, spec.data.dir)
        train, holdout, test = len(splits.train), len(splits.holdout), len(splits.test)
    return (train + holdout, test, test) if spec.select.split == "test" else (train, holdout, test)


def _passes(attacks: dict[str, Attack]) -> int:
    """Forwards of an image, a gradient counted as one more, under all of these."""
    return sum(a.passes or 2 * int(a.params.get("steps", 0)) + 1 for a in attacks.values())
