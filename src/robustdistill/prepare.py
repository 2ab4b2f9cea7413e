"""A spec assembled into a run: student, teachers, method, data, judge; checked before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from robustdistill import assemble
from robustdistill.data.keys import generator, key
from robustdistill.data.loader import Loader
from robustdistill.engine import execution, loop
from robustdistill.engine.dryrun import Reads
from robustdistill.engine.state import State, averaged, sgd
from robustdistill.errors import UserError
from robustdistill.evaluation import suite
from robustdistill.logits import DEFAULT_ROLE
from robustdistill.modes import seeded
from robustdistill.registry import Registry
from robustdistill.resolve import advice
from robustdistill.spec import Node, RunSpec
from robustdistill.store.atomic import sha256
from robustdistill.types import Augment, Dataset, Split, Splits

Modules = nn.Module | Mapping[str, nn.Module] | None


@dataclass(frozen=True)
class Run:
    """Everything of a run, assembled; `teachers` holds the sha256 of each teacher's file by role."""

    spec: RunSpec
    dataset: Dataset
    splits: Splits
    state: State
    job: loop.Job
    reads: Reads
    device: torch.device
    registry: Registry
    warnings: tuple[str, ...] = ()
    teachers: Mapping[str, str] = field(default_factory=dict)


def prepare(spec: RunSpec, registry: Registry, *, student: nn.Module | None = None, teacher: Modules = None) -> Run:
    """Assembles a run and tries one step of it on device meta. UserError for whatever does not fit."""
    device, dtype = execution.pick_device(spec.device), execution.DTYPES[spec.precision]
    dataset: Dataset = registry.get("dataset", spec.data.name)
    given = dict(teacher) if isinstance(teacher, Mapping) else {DEFAULT_ROLE: teacher} if teacher is not None else {}
    spec = _named_after(spec, student, given)
    student = student or assemble.build_student(spec, dataset, registry)
    reads = assemble.plan(spec, student, dataset, registry)
    notes = [*advice(spec), *assemble.unread(spec, reads, dataset, registry, given)]
    spec = spec.model_copy(update={"teachers": {role: spec.teachers[role] for role in reads.roles}})
    files = {r: assemble.teacher_file(t, registry, spec.data.name) for r, t in spec.teachers.items() if r not in given}
    teachers = {role: given.get(role) or _teacher(spec, role, dataset, registry) for role in reads.roles}
    for role in given:
        assemble.check_network(given[role], dataset, f"teacher {role}")
    if any(network is student for network in teachers.values()):
        raise UserError("the student cannot be its own teacher; give a copy (copy.deepcopy) as the teacher")
    splits = assemble.load_data(dataset, spec.data.name, spec.data.dir)
    state, job = _job(spec, student.to(device, dtype), teachers, splits, registry, reads)
    hashes = {role: sha256(path) for role, path in files.items()}
    return Run(spec, dataset, splits, state, job, reads, device, registry, tuple(notes), hashes)


def _teacher(spec: RunSpec, role: str, dataset: Dataset, registry: Registry) -> nn.Module:
    return assemble.build_teacher(spec.teachers[role], dataset, registry, spec.data.name)


def _named_after(spec: RunSpec, student: nn.Module | None, teachers: Mapping[str, nn.Module]) -> RunSpec:
    """The spec tells of modules given from Python by their class: it records them, it cannot rebuild them."""
    update: dict[str, object] = {}
    if student is not None:
        update["student"] = Node(name=_class_name(student))
    if teachers:
        update["teachers"] = {**spec.teachers, **{r: Node(name=_class_name(t)) for r, t in teachers.items()}}
    return spec.model_copy(update=update)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}:{type(module).__qualname__}"


def _job(
    spec: RunSpec,
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    splits: Splits,
    registry: Registry,
    reads: Reads,
) -> tuple[State, loop.Job]:
    device, dtype = execution.pick_device(spec.device), execution.DTYPES[spec.precision]
    game = assemble.build_game(spec, registry)
    game.units.to(device, dtype)
    optimizer = sgd([*student.parameters(), *game.units.parameters()], **spec.optim.model_dump())
    state = State(student, game.units, optimizer, averaged(student, spec.average.name, spec.average.decay))
    schedule, frozen = spec.schedule, {r: execution.freeze(t.to(device, dtype)) for r, t in teachers.items()}
    job = loop.Job(
        game=game,
        networks=execution.networks(student, frozen),
        batches=_batches(spec, splits, device, dtype),
        judge=judge_of(spec, splits, registry, device),
        generator=lambda what, epoch, step: generator(spec.seed, what, epoch, step, device=device),
        seeded=lambda epoch, step: seeded(key(spec.seed, "student", epoch, step), device),
        epochs=spec.epochs,
        lr=loop.schedule(schedule.name, spec.optim.lr, spec.epochs, schedule.milestones, schedule.gamma),
        terms=len(reads.terms) > 1,
        average=spec.average.name,
        average_start=round(spec.average.start * spec.epochs),
    )
    return state, job


def judge_of(spec: RunSpec, splits: Splits, registry: Registry, device: torch.device) -> loop.Judge:
    """How the run's epochs are judged."""
    split = splits.test if spec.select.split == "test" else splits.holdout
    part = trial(spec, Split(split.images[: spec.select.n], split.labels[: spec.select.n]))
    names = ("clean", spec.select.attack)

    def accuracy(network: nn.Module) -> tuple[float, float]:
        clean, robust = (accuracies(network, part, names, spec, registry, device)[name] for name in names)
        return clean, robust

    return loop.Judge(accuracy, spec.select.split, spec.select.attack, spec.select.every)


def trial(spec: RunSpec, split: Split) -> Split:
    """`split`, or no more of it than an epoch sees where `limit_batches` makes the run a mere trial."""
    n = None if spec.limit_batches is None else spec.limit_batches * spec.batch_size
    return Split(split.images[:n], split.labels[:n])


def accuracies(
    network: nn.Module, split: Split, names: tuple[str, ...], spec: RunSpec, registry: Registry, device: torch.device
) -> dict[str, float]:
    """Accuracy under each named attack on `split`, at the spec's radius."""
    make = assemble.judging_generator(spec.seed, device, registry)
    attacks = {name: registry.get("attack", name) for name in names}
    verdicts = (
        suite.judge(network, split.images, split.labels, name, attack, eps=spec.eps, generator=make)
        for name, attack in attacks.items()
    )
    return {v.attack: v.accuracy for v in verdicts}


def _batches(spec: RunSpec, splits: Splits, device: torch.device, dtype: torch.dtype) -> Loader:
    return Loader(
        assemble.training_split(splits, spec.select.split),
        batch_size=spec.batch_size,
        augment=Augment(spec.data.augment.pad, spec.data.augment.flip),
        seed=spec.seed,
        device=device,
        dtype=dtype,
        limit_batches=spec.limit_batches,
    )
