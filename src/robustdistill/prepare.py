"""A spec assembled into a run: student, teachers, method, data, judge; checked before anything starts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from robustdistill import assemble, hub, vetting
from robustdistill.checks import check_modules, check_network, check_smallest_batch
from robustdistill.data.keys import key
from robustdistill.data.loader import Extra, Loader
from robustdistill.data.window import fits
from robustdistill.engine import execution, forwards
from robustdistill.engine.dryrun import Reads
from robustdistill.engine.execution import Execution, Work
from robustdistill.engine.forwards import Compiler
from robustdistill.engine.job import Job, schedule
from robustdistill.engine.state import State, averaged, sgd
from robustdistill.engine.step import MinMax
from robustdistill.engine.steps import Steps
from robustdistill.engine.syncbn import synchronised
from robustdistill.engine.work import estimate
from robustdistill.errors import UserError
from robustdistill.exported import refuse_exported
from robustdistill.located import Located, locate_teacher
from robustdistill.logits import DEFAULT_ROLE, Clock
from robustdistill.modes import seeded
from robustdistill.recording import CudaGraphs
from robustdistill.registry import Registry
from robustdistill.resolve import advice
from robustdistill.selection import judge_of
from robustdistill.spec import Node, RunSpec
from robustdistill.store.atomic import sha256
from robustdistill.store.weights import digest
from robustdistill.surroundings import deterministic_cublas
from robustdistill.types import Augment, Dataset, Split, Splits, Watch
from robustdistill.world import current

SKIPPED_IN_A_ROW = 3  # more than that is no accident

Modules = nn.Module | Mapping[str, nn.Module] | None


@dataclass(frozen=True)
class Run:
    """Everything of a run, assembled. `teachers` holds the frozen teachers as the run uses them, `hashes` the sha256 of
    each one's file (of its tensors where timm found it), both by role; `work` is an estimate of what its steps compute.
    """

    spec: RunSpec
    dataset: Dataset
    splits: Splits
    state: State
    job: Job
    reads: Reads
    execution: Execution
    work: Work
    registry: Registry
    teachers: Mapping[str, nn.Module]
    warnings: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return self.execution.device


def prepare(
    spec: RunSpec,
    registry: Registry,
    *,
    student: nn.Module | None = None,
    teacher: Modules = None,
    splits: Splits | None = None,
    watch: Watch | None = None,
    trial: bool = False,
) -> Run:
    """Assembles a run and tries one step of it on device meta. UserError for whatever does not fit.

    `student`, `teacher` (a module, or modules by role) and `splits` take the place of what the spec names; `watch`
    hears of each batch of a judgement. A `trial` is not to be run: teachers that are not on this disk are left blank
    and none is looked at; otherwise those are downloaded, after all else was found to be in order, and all are looked
    at on images of the data set itself.
    """
    device, here = execution.pick_device(spec.device), current()
    if spec.deterministic:
        deterministic_cublas(device)
    dataset: Dataset = registry.dataset(spec.data.name, spec.data.dir)
    given = dict(teacher) if isinstance(teacher, Mapping) else {DEFAULT_ROLE: teacher} if teacher is not None else {}
    own = {"student": student} if student is not None else {}
    check_modules(modules := {**own, **{f"teacher {role!r}": t for role, t in given.items()}})
    refuse_exported(modules)
    spec = _named_after(spec, student, given)
    student = student or assemble.build_student(spec, dataset, registry)
    reads = assemble.plan(spec, student, dataset, registry)
    notes = [*advice(spec), *assemble.unread(spec, reads, dataset, registry, given)]
    spec = spec.model_copy(update={"teachers": {role: spec.teachers[role] for role in reads.roles}})
    brought = {role: node for role, node in spec.teachers.items() if role not in given}
    files = {r: _located(spec, r, registry, trial) for r, t in brought.items() if not hub.names(t.name)}
    late = [r for r, file in files.items() if file.missing]

    def built(roles: Iterable[str], blank: Collection[str] = ()) -> dict[str, nn.Module]:
        return {r: given.get(r) or _teacher(spec, r, dataset, registry, blank=r in blank) for r in roles}

    teachers = here.one_by_one(lambda: built(reads.roles, late))
    hashes = {role: digest(teachers[role].state_dict()) for role in brought if role not in files}
    for role in given:
        check_network(given[role], dataset, f"teacher {role}")
    if any(network is student for network in teachers.values()):
        raise UserError("the student cannot be its own teacher; give a copy (copy.deepcopy) as the teacher")
    real, splits = splits is None, splits or here.one_by_one(lambda: _splits(spec, dataset))
    learned = assemble.training_parts(splits, spec.select.split)
    batches = _batches(spec, learned, splits.extra, device)
    notes += _check_batches(spec, student, dataset, sum(map(len, learned)))
    image = (dataset.channels, dataset.size, dataset.size)
    work = estimate(reads, student, teachers, image, spec.batch_size, spec.epochs * len(batches))
    how, unable = execution.choose(spec.mode, spec.precision, device, work)
    if not trial:
        teachers |= here.one_by_one(lambda: built(late))
    frozen = {role: forwards.frozen(execution.freeze(t), how) for role, t in teachers.items()}
    if real and not trial:
        notes += here.on_first(lambda: vetting.vet(spec, frozen, learned, len(dataset.classes), how, registry))
    game = assemble.build_game(spec, registry, len(dataset.classes))
    state, job = _job(spec, game, how, student.to(device, how.dtype), frozen, splits, batches, registry, reads, watch)
    job.steps.notes.extend(unable)
    hashes |= {role: sha256(file.path) for role, file in files.items() if not file.missing}
    return Run(spec, dataset, splits, state, job, reads, how, work, registry, frozen, tuple(notes), hashes)


def _check_batches(spec: RunSpec, student: nn.Module, dataset: Dataset, images: int) -> list[str]:
    """A sentence on batches that take everything. UserError for one too small to learn from."""
    seen = images if spec.limit_batches is None else min(images, spec.limit_batches * spec.batch_size)
    check_smallest_batch(student, dataset, seen, spec.batch_size, current().size, spec.sync_bn)
    if spec.batch_size <= images:
        return []
    return [f"batch_size {spec.batch_size:,} is more than the {images:,} training images: an epoch is one step"]


def _located(spec: RunSpec, role: str, registry: Registry, trial: bool) -> Located:
    found = locate_teacher(spec.teachers[role], registry, spec.data.name)
    if not trial:
        found.refuse_offline()
    return found


def _teacher(spec: RunSpec, role: str, dataset: Dataset, registry: Registry, blank: bool = False) -> nn.Module:
    build = assemble.blank_teacher if blank else assemble.build_teacher
    return build(spec.teachers[role], dataset, registry, spec.data.name)


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
    game: MinMax,
    how: Execution,
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    splits: Splits,
    batches: Loader,
    registry: Registry,
    reads: Reads,
    watch: Watch | None,
) -> tuple[State, Job]:
    game.units.to(how.device, how.dtype)
    here = current()
    optimizer = sgd([*student.parameters(), *game.units.parameters()], **spec.optim.model_dump())
    if here.size > 1:
        optimizer.register_step_pre_hook(here.average_gradients)
        student = synchronised(student) if spec.sync_bn else student
    state = State(student, game.units, optimizer, averaged(student, spec.average.name, spec.average.decay))
    own = (here.rank,) if here.size > 1 else ()  # what the student draws is for its own images
    plan, compiler = spec.schedule, Compiler(len(range(spec.batch_size)[here.part(spec.batch_size)]), how.compiled)
    steps = Steps(
        game=game,
        student=student,
        optimizer=optimizer,
        networks=forwards.networks(student, teachers, how, compiler),
        batches=batches,
        compiler=compiler,
        clock=Clock.at(0, spec.span, how.device),
        start=torch.Generator(how.device),
        seed=lambda what, epoch, step: key(spec.seed, what, epoch, step),
        seeded=lambda epoch, step: seeded(key(spec.seed, "student", epoch, step, *own), how.device),
        recorder=CudaGraphs(how.device) if how.mode == "graph" else None,
        common=torch.Generator(how.device) if here.size > 1 else None,
    )
    job = Job(
        steps=steps,
        networks=forwards.networks(student, teachers, how),
        judge=judge_of(spec, splits, registry, how, compiler, watch, teachers.get(DEFAULT_ROLE)),
        epochs=spec.epochs,
        span=spec.span,
        lr=schedule(plan.name, spec.optim.lr, spec.span, plan.milestones, plan.gamma),
        terms=len(reads.terms) > 1,
        average=spec.average.name,
        average_start=round(spec.average.start * spec.epochs),
        skip=SKIPPED_IN_A_ROW if spec.on_nonfinite == "skip" else 0,
    )
    return state, job


def _splits(spec: RunSpec, dataset: Dataset) -> Splits:
    extra = assemble.load_extra(spec.data.extra, dataset)
    return replace(assemble.load_data(dataset, spec.data.name, spec.data.dir), extra=extra)


def _batches(spec: RunSpec, learned: Sequence[Split], more: Split | None, device: torch.device) -> Loader:
    """The batches of a run. On a CPU several parts stay where they are: resident they would be copied into one."""
    share = spec.data.extra and spec.data.extra.share
    extra = Extra(more, share) if more and share else None
    every = [*learned, extra.split] if extra else learned
    return Loader(
        learned,
        batch_size=spec.batch_size,
        augment=Augment(spec.data.augment.pad, spec.data.augment.flip),
        seed=spec.seed,
        device=device,
        dtype=execution.dtype_of(spec.precision),
        limit_batches=spec.limit_batches,
        extra=extra,
        part=current().part,
        resident=fits(sum(part.images.nbytes for part in every), device)
        and not (len(every) > 1 and device.type == "cpu"),
    )
