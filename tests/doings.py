"""What the processes of `ranks.doing` do: python doings.py NAME FOLDER RANK SIZE. Each returns what a test looks at."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch import distributed as dist

import robustdistill as rd
from games import Tiny, images, teacher
from robustdistill.engine import step
from robustdistill.engine.state import set_lr
from robustdistill.engine.syncbn import synchronised
from robustdistill.errors import RobustDistillError
from robustdistill.evaluation import suite
from robustdistill.evaluation.autoattack import standard
from robustdistill.prepare import Run
from robustdistill.registry import default_registry
from robustdistill.types import Attack, Outcome
from robustdistill.world import current, join
from runs import run_of

CASES: dict[str, dict[str, Any]] = {
    "mmard": {"method": "mmard"},
    "sums": {"method": "mmard", "outer": {"kl_scale": "sum", "reduction": "sum", "alpha": 100}},
    "mtard": {"method": "mtard", "outer": {"dynamic": True}},
    "trades": {"method": "trades"},
    "awp": {"method": "sat", "with": ["awp"]},
    "ema": {"method": "rslad", "average": {"name": "ema"}},
}
SIZES = (32, 32, 31)  # the last batch cannot be shared evenly
EPS = 0.03
SPEC: dict[str, Any] = {
    "method": "mtard",
    "outer": {"dynamic": True},
    "attack": {"steps": 2, "step": "eps/2"},
    "epochs": 2,
    "limit_batches": 4,
    "batch_size": 15,
    "student": {"name": "digits-net", "width": 4},
    "average": {"name": "ema"},
    "select": {"n": 20, "attack": "fgsm"},
    "device": "cpu",
}


def prepared(case: str, **more: Any) -> Run:
    fine = {"precision": "fp64"}  # else the sign of a gradient near 0 may differ, and one pixel by two whole steps
    return run_of(CASES[case] | {"attack": {"steps": 3, "start": "uniform"}} | fine | more)


def taken(run: Run) -> Tensor:
    """The losses of one step for each of `SIZES`."""
    set_lr(run.state.optimizer, 0.1)
    run.job.steps.begin(0)
    losses = []
    for i, (n, picks) in enumerate(zip(SIZES, run.job.steps.batches.picks(0), strict=False)):
        losses.append(run.job.steps.take(picks[:, :n], 0, i))
        if run.state.average is not None:
            run.state.average.update(run.state.student)
    return torch.stack(losses)


def told(run: Run, losses: Tensor) -> dict[str, Any]:
    return {"losses": losses, **{k: v.clone() for k, v in run.state.named().items()}}


def teachers() -> dict[str, nn.Module]:
    return {"robust": teacher(1), "clean": teacher(2)}


@contextmanager
def counted() -> Iterator[list[tuple[bool, int]]]:
    """(inside the attack?, numbers) of every all-reduce between tensors of a step."""
    found: list[tuple[bool, int]] = []
    attacking, reduce, adversary = [False], dist.all_reduce, step.adversary

    def counting(v: Tensor, op: Any = None, group: Any = None) -> None:
        if v.is_floating_point():
            found.append((attacking[0], v.numel()))
        reduce(v, op=op, group=group)

    def attack(*args: Any) -> Tensor:
        attacking[0] = True
        x_adv = adversary(*args)
        attacking[0] = False
        return x_adv

    dist.all_reduce, step.adversary = counting, attack  # type: ignore[assignment]
    yield found
    dist.all_reduce, step.adversary = reduce, adversary


def steps(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for case in CASES:
        report[case] = told(run := prepared(case, sync_bn=True), taken(run))
    run = prepared("mtard")
    report["own bn"] = told(run, taken(run))
    for name, more in (("reduces", {}), ("reduces with sync_bn", {"sync_bn": True})):
        with counted() as report[name]:
            taken(run := prepared("mmard", **more))
    report["numbers"] = sum(p.numel() for p in run.state.student.parameters())
    report["tensors"] = len(list(run.state.student.parameters()))
    report["fair"] = fair()
    return report | formulas() | odd_gradients() | noises()


def fair() -> dict[str, Tensor]:
    """What a modifier of a package counts, class by class, in the steps."""
    from robustdistill_fair import Fair

    run, modifier = prepared("trades", sync_bn=True), Fair(num_classes=10).double()
    made = run.job.steps.game
    run.job.steps.game = step.min_max(made.inner, made.outer, made.attack, [modifier])
    taken(run)
    return {k: v.clone() for k, v in modifier.state_dict().items()}


def gpus(folder: Path) -> dict[str, Any]:
    """The same steps on a GPU for each process, over NCCL."""
    report = {}
    for case in CASES:
        run = prepared(case, sync_bn=True, device="cuda")
        report[case] = {k: v.cpu() for k, v in told(run, taken(run)).items()}
    return report


def formulas() -> dict[str, Any]:
    """The reductions and SyncBatchNorm on this process' rows of a batch, with first and second derivatives."""
    here = current()
    v = torch.tensor([3.0, 1.0, 1.0, 2.0, 5.0], dtype=torch.float64)[here.part(5)].requires_grad_()
    mean, least = here.mean(v.square()), here.min(v)
    grads = [torch.autograd.grad(out, v)[0] / here.size for out in (mean, least)]
    net = synchronised(Tiny()).double().train()
    x = images(7, dtype=torch.float64)[0][here.part(7)].requires_grad_()
    loss = here.mean(net(x).square())
    slope = torch.autograd.grad(loss, x, create_graph=True)[0] / here.size
    twice = torch.autograd.grad(here.total(slope.square().sum()), [*net.parameters()])
    grown = [g.clone() for g in twice]
    here.average_(grown)
    return {
        "formulas": {"mean": mean.detach(), "min": least.detach(), "grads": grads, "loss": loss.detach()},
        "bn": {"slope": slope.detach(), "twice": grown, "state": net.state_dict()},
        "rows": here.part(7),
    }


def odd_gradients() -> dict[str, Any]:
    """A parameter that has a gradient in the second process only, and one that has none at all."""
    here = current()
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = torch.optim.SGD([a, b, c], lr=1.0)
    optimizer.register_step_pre_hook(here.average_gradients)
    ((a + b) if here.rank else a).sum().backward()
    optimizer.step()
    return {"odd": [a.detach(), b.detach(), c.detach()], "none": c.grad is None}


def noises() -> dict[str, Any]:
    """x' of attacks without steps: pgd's own noise, and that of an attack which draws from `generator` by itself."""
    run = run_of({"method": "sat", "attack": {"steps": 0, "start": "uniform"}})
    picks = next(iter(run.job.steps.batches.picks(0)))
    _, z, generator = run.job.steps.beside(picks, 0, 0, run.job.networks, run.job.steps.clock)
    x_adv = step.adversary(run.job.steps.game, run.state.student, z, generator)
    return {"noise": x_adv, "own noise": torch.rand(4, generator=generator)}


def runs(folder: Path) -> dict[str, Any]:
    """Whole runs: stopped and resumed, unbroken, and several that must not go on."""
    here, report = join(), {}
    whole = list(rd.train(SPEC, teacher=teachers(), out=folder / "whole"))
    report["events"] = [type(e).__name__ for e in whole]
    asked = count(1)
    report["stopped"] = failure(
        rd.train(SPEC, teacher=teachers(), out=folder / "stopped", stop=lambda: here.rank == 1 and next(asked) >= 3)
    )
    list(rd.resume(folder / "stopped", teacher=teachers()))
    report["planted"] = failure(planted(rd.train(SPEC, teacher=teachers(), student=(student := Tiny())), student))
    report["other student"] = failure(rd.train(SPEC, teacher=teachers(), student=Tiny(here.rank)))
    report["other spec"] = failure(rd.train(SPEC | {"seed": here.rank}, teacher=teachers()))
    report["too small"] = failure(rd.train(SPEC | {"batch_size": 1}, teacher=teachers()))
    report["one alone"] = failure(rd.train(SPEC | {"epochs": 1 - here.rank}, teacher=teachers()))
    report["diverged"] = failure(rd.train(SPEC | {"optim": {"lr": 1e30}}, teacher=teachers(), out=folder / "nan"))
    report["taken"] = failure(rd.train(SPEC, teacher=teachers(), out=folder / "whole"))
    return report | verdicts()


def planted(events: Iterator[Any], student: nn.Module) -> Iterator[Any]:
    """After the first step that is told of, the student of the second process is another one by one bit."""
    for event in events:
        if type(event).__name__ == "Stepped" and event.step == 1 and current().rank:
            weight = next(student.parameters()).data.view(torch.int32)
            weight[0] ^= 1
        yield event


def failure(events: Iterator[Any]) -> tuple[str, str, int | None]:
    try:
        list(events)
    except RobustDistillError as error:
        return type(error).__name__, str(error), getattr(error, "process", None)
    return "", "", None


def verdicts() -> dict[str, Any]:
    """Every attack on a few images in batches that do not come out even."""
    join()
    network = teacher()
    x = images(23, seed=3)[0]
    y = network(x).argmax(dim=1)
    registry, found = default_registry(), {}
    for verdict in rd.evaluate(network, x, y, attacks=("fgsm", "pgd", "cw"), eps=EPS, registry=registry, device="cpu"):
        found[verdict.attack] = verdict.correct
    return {"verdicts": found, "small": small(network, x, y)}


def small(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The same with logical batches of five images, so that there is something to share; AutoAttack with few steps."""

    def make(name: str, index: int) -> Generator:
        return Generator().manual_seed(len(name) + index)

    pgd: Attack = default_registry().get("attack", "pgd")
    seen: list[Any] = []
    verdict = suite.judge(network, x, y, "pgd", pgd, eps=EPS, generator=make, batch_size=5, watch=seen.append)
    aa = suite.judge(network, x, y, "aa", replace(pgd, ensemble=ensemble), eps=EPS, generator=make, at_once=10)
    stages = torch.stack([s.correct for s in aa.stages])
    return {"pgd": verdict.correct, "aa": aa.correct, "stages": stages, "done": torch.tensor(len(seen))}


def ensemble(
    forward: Any, x: Tensor, y: Tensor, *, at_once: int, eps: float, keep: Any, watch: Any, **_: Any
) -> Outcome:
    """AutoAttack with fewer steps, in logical batches of five images."""
    few = [replace(part, params=fewer(part.params)) for part in standard.STANDARD]
    return standard.autoattack(forward, x, y, eps=eps, logical_batch=5, physical_batch=at_once, attacks=few)


def fewer(params: Mapping[str, Any]) -> dict[str, Any]:
    least = {"steps": 5, "targets": 2, "queries": 50}
    return {k: least[k] for k in params}


if __name__ == "__main__":
    name, folder, rank, size = sys.argv[1:]
    torch.set_num_threads(1)
    backend = "cpu:gloo,cuda:nccl" if name == "gpus" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=int(rank), world_size=int(size))
    join()
    torch.save(globals()[name](Path(folder)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
