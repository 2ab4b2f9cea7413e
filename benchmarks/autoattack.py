"""AutoAttack by this package and by pyautoattack (the official code's PyPI packaging): same images, same run.

    python benchmarks/autoattack.py digits-robust -n 300
    python benchmarks/autoattack.py rn-18@FILE --data cifar10 --data-dir DIR -n 1000 --device cuda --physical 1000

Prints a row a stage: seconds and processor seconds of both, their ratio, robust accuracy, and the images whose
verdicts differ. On a GPU the official code runs with cuDNN's deterministic kernels and convolutions in TF32, and ours
searches in TF32, judges in float32 and replays recorded steps; `--exact` forbids TF32 to both, `--plain` takes our
steps one by one. `--steps` and `--queries` shorten all attacks alike; without them the budgets are the standard ones.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.arithmetic import true_float32
from robustdistill.bench.timing import synchronize
from robustdistill.evaluation.autoattack.replay import Loop, loop_on
from robustdistill.evaluation.autoattack.standard import STANDARD, Part, autoattack
from robustdistill.quantities import parse_number
from robustdistill.registry import default_registry
from robustdistill.targets import find_target
from robustdistill.types import Progress

Clock = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Row:
    """One stage of one engine: what still stands, seconds on the wall and of the processor."""

    name: str
    correct: Tensor
    wall: float
    processor: float


def shortened(steps: int | None, queries: int | None) -> tuple[Part, ...]:
    """The standard attacks with other budgets."""
    given = {k: v for k, v in (("steps", steps), ("queries", queries)) if v is not None}
    return tuple(replace(p, params={k: given.get(k, v) for k, v in p.params.items()}) for p in STANDARD)


def ours(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    parts: Sequence[Part],
    batch: int,
    physical: int,
    loop: Loop | None = None,
) -> list[Row]:
    """This package's stages after the clean one."""
    marks, now = {}, clock(x.device)
    began = now()[0]

    def watch(at: Progress) -> None:
        if at.done == at.units:
            marks[at.attack] = now()
            after = marks[at.attack][0] - began
            print(f"ours: {at.attack} done after {after:.1f} s, {at.standing} images stand", flush=True)

    sizes: dict[str, Any] = {"logical_batch": batch, "physical_batch": physical}
    with true_float32():
        done = autoattack(network, x, y, eps=eps, attacks=parts, watch=watch, loop=loop, **sizes)
    last, rows = marks["clean"], []
    for stage in done.stages[1:]:
        mark = marks.get(stage.name, last)
        rows.append(Row(stage.name, stage.correct, mark[0] - last[0], mark[1] - last[1]))
        last = mark
    return rows


def reference(
    network: nn.Module, x: Tensor, y: Tensor, *, eps: float, parts: Sequence[Part], batch: int
) -> Iterator[Row]:
    """pyautoattack's stages: each attack alone on what stands, which is how it goes through them by itself."""
    now = clock(x.device)
    logits = torch.cat([network(v) for v in x.split(batch)])
    standing, attack = logits.argmax(dim=1) == y, official(network, x.device, logits.shape[1], eps, parts)
    for part in parts:
        attack.attacks_to_run, ids, began = [part.name], standing.nonzero()[:, 0], now()
        if len(ids):
            standing[ids] = attack.run_standard_evaluation(x[ids], y[ids], batch_size=batch)[1] == y[ids]
        ended = now()
        yield Row(part.name, standing.clone().cpu(), ended[0] - began[0], ended[1] - began[1])


def official(network: nn.Module, device: torch.device, classes: int, eps: float, parts: Sequence[Part]) -> Any:
    """pyautoattack's standard version with the budgets of `parts`."""
    from pyautoattack import AutoAttack
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    budget = {p.name: p.params for p in parts}
    attack = AutoAttack(network, norm="Linf", eps=eps, seed=0, device=device)
    common = {"eps": eps, "norm": "Linf", "seed": 0, "device": device, "logger": attack.logger}
    attack.apgd = APGDAttack(network, n_iter=budget["apgd-ce"]["steps"], **common)
    attack.apgd_targeted = APGDAttack_targeted(network, n_iter=budget["apgd-t"]["steps"], **common)
    attack.fab.n_iter, attack.square.n_queries = budget["fab-t"]["steps"], budget["square"]["queries"]
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    return attack


def clock(device: torch.device) -> Clock:
    """Seconds on the wall and of the processor, once the device has done all that it was asked."""

    def now() -> tuple[float, float]:
        synchronize(device)
        return time.perf_counter(), time.process_time()

    return now


def line(theirs: Row, mine: Row) -> str:
    """A row of the table."""
    ids = (theirs.correct != mine.correct).nonzero()[:, 0].tolist()
    accuracy = f"{100 * float(theirs.correct.double().mean()):6.2f} {100 * float(mine.correct.double().mean()):6.2f}"
    seconds = f"{theirs.wall:9.1f} {mine.wall:9.1f} {theirs.wall / max(mine.wall, 1e-9):6.2f}"
    processor = f"{theirs.processor:9.1f} {mine.processor:9.1f} {theirs.processor / max(mine.processor, 1e-9):6.2f}"
    return f"{mine.name:8} {seconds} {processor} {accuracy}  {len(ids)} {ids[:10] or ''}"


def total(rows: Sequence[Row]) -> Row:
    """All stages together."""
    return Row("all", rows[-1].correct, sum(r.wall for r in rows), sum(r.processor for r in rows))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a checkpoint, a teacher's name, or ARCH@FILE")
    parser.add_argument("-n", type=int, default=300, help="images: of the test set, then of the hold-out")
    parser.add_argument("--data")
    parser.add_argument("--data-dir")
    parser.add_argument("--eps", help="by default the data set's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=250, help="images in a batch of the official code")
    parser.add_argument("--physical", type=int, default=250, help="most images in one forward of ours")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--exact", action="store_true", help="no TF32 on a GPU, for either")
    parser.add_argument("--plain", action="store_true", help="our steps one by one, none recorded")
    return parser.parse_args()


def main() -> None:
    """Ours, then theirs, a row of the table as soon as it is known."""
    given, registry = arguments(), default_registry()
    if given.threads:
        torch.set_num_threads(given.threads)
    target = find_target(given.model, registry, given.data, given.data_dir)
    dataset, device = registry.get("dataset", target.data), torch.device(given.device)
    splits = dataset.load(Path(given.data_dir) if given.data_dir else None)
    x = torch.cat([splits.test.images, splits.holdout.images])[: given.n].to(device) / 255
    y = torch.cat([splits.test.labels, splits.holdout.labels])[: given.n].to(device)
    network = target.network.to(device).eval().requires_grad_(False)
    eps, parts = float(parse_number(given.eps or target.eps or dataset.eps)), shortened(given.steps, given.queries)
    loop = Loop() if given.plain else loop_on(device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=not given.exact):
        print(f"{given.model}, {len(x)} images, eps {eps:g}, {device}, torch {torch.__version__}, seed 0", flush=True)
        mine = ours(network, x, y, eps=eps, parts=parts, batch=given.batch, physical=given.physical, loop=loop)
        if loop.why:
            print(f"not recorded: {loop.why}")
        print("stage    wall, s: official  ours  ratio   processor, s: official  ours  ratio   accuracy  differing ids")
        theirs = []
        for row, own in zip(reference(network, x, y, eps=eps, parts=parts, batch=given.batch), mine, strict=True):
            theirs.append(row)
            print(line(row, own), flush=True)
    print(line(total(theirs), total(mine)))


if __name__ == "__main__":
    main()
