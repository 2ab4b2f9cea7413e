"""The processes of one run: which one this is, and what they tell each other. Alone, everything here returns at once.

torchrun starts them and torch.distributed carries their words; nothing is wrapped around the student. What a step adds
up goes through the default group (NCCL between GPUs); what only the hosts agree on goes through gloo: `_quick` for what
comes at once, `_patient` for what may be long in coming, such as a download or a checkpoint.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from robustdistill.collectives import Sum, checksum, exchanged, heard, portable, reduce_, timeout
from robustdistill.errors import ProcessesApart

T = TypeVar("T")
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`, the `local`-th one of its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0
    _quick: Any = None
    _patient: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """The rows of this process of `n` rows that all share; sizes differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    # ---- tensors of a step ------------------------------------------------------------------------------
    def total(self, v: Tensor) -> Tensor:
        """The sum of `v` over the processes, number by number; differentiable any number of times."""
        out: Tensor = v if self.size == 1 else Sum.apply(v)
        return out

    def mean(self, v: Tensor) -> Tensor:
        """The mean of all numbers in every process' `v`, of whatever sizes; differentiable."""
        if self.size == 1:
            return v.mean()
        summed, n = self.total(torch.stack([v.sum(), v.new_full((), v.numel())])).unbind()
        return summed / n

    def min(self, v: Tensor) -> Tensor:
        """The least number in any process' `v`. Its gradient is spread evenly over all that equal it, as torch's is."""
        if self.size == 1:
            return v.min()
        least = v.detach().min()
        reduce_(least, dist.ReduceOp.MIN)
        here = v == least
        return self.total(v.where(here, 0).sum()) / self.total(here.sum().to(v))

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its mean over the processes, in place: one all-reduce for each number format."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            some = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in some])
            reduce_(flat)
            parts = torch.split(flat / self.size, [t.numel() for t in some])
            torch._foreach_copy_(some, [p.view_as(t) for p, t in zip(parts, some, strict=True)])

    @torch.no_grad()
    def average_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """A hook before an optimiser's step: one all-reduce makes every gradient the global one.

        A parameter without one here counts as zero if it got one elsewhere; if it got none at all it stays so.
        """
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        without = [i for i, p in enumerate(weights) if p.grad is None]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        there = grads[0].new_ones(len(weights))
        for i in without:
            there[i] = 0
        self.average_([*grads, there])
        found = there.tolist() if without else []  # the only case in which the host waits
        for i in without:
            weights[i].grad = grads[i] if found[i] else None

    # ---- words between the hosts ------------------------------------------------------------------------
    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        if self.size == 1:
            return flag
        said = torch.tensor(int(flag))
        reduce_(said, dist.ReduceOp.MAX, self._quick)
        return bool(said)

    def gather(self, fn: Callable[[], T]) -> list[T]:
        """What `fn()` returns in each process, by rank. An error in one of them is raised in all of them, and bears the
        number of that `process`. However long it takes, the others wait.
        """
        if self.size == 1:
            return [fn()]
        own: Exception | None = None
        value: T | None = None
        try:
            value = fn()
        except Exception as error:
            if hasattr(error, "process") or isinstance(error, ProcessesApart):
                raise
            own = error
        told = exchanged((own and portable(own), value), self.size, self._patient)
        for rank, (failure, _) in enumerate(told):
            if failure is not None:
                raise shared(own if own is not None and rank == self.rank else failure, rank)
        return [result for _, result in told]

    def together(self, fn: Callable[[], T]) -> T:
        """`fn()`, whose error in one process is raised in all. What it returns stays where it is."""
        kept: list[T] = []
        self.gather(lambda: kept.append(fn()))
        return kept[0]

    def on_first(self, fn: Callable[[], T]) -> T:
        """`fn()` of the first process, which runs it as if it were alone, in every process."""

        def run() -> T | None:
            if not self.first:
                return None
            with alone():
                return fn()

        return cast(T, self.gather(run)[0])

    def one_by_one(self, fn: Callable[[], T]) -> T:
        """`fn()` in the first process of each machine, then in the others, which find what that one has downloaded."""
        if self.local == 0:
            result = self.together(fn)
            self.together(lambda: None)
            return result
        self.together(lambda: None)
        return self.together(fn)

    @torch.no_grad()
    def refuse_unequal(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """ProcessesApart, in all of them, unless each tensor has the same bits in every process."""
        if self.size == 1:
            return
        sums = torch.stack([checksum(t) for t in tensors.values()]).tolist()
        told = self.gather(lambda: sums)
        differ = [name for name, *values in zip(tensors, *told, strict=True) if len(set(values)) > 1]
        if differ:
            raise shared(
                ProcessesApart(
                    f"{when} the {self.size} processes of the run are no longer equal: {len(differ)} of {len(tensors)} "
                    f"tensors differ, the first is {differ[0]}. Go on from the last checkpoint; if it happens again, "
                    "look for state that a plugin keeps from its own part of the batch"
                )
            )


def shared(error: Exception, process: int = 0) -> Exception:
    """`error`, which every process raises, of the one in which it came up."""
    error.process = process  # type: ignore[attr-defined]
    return error


# ---- which one this is ------------------------------------------------------------------------------------
ALONE = World()
_here = ALONE


def current() -> World:
    """The processes that this one has joined; itself alone, unless `join` found more."""
    return _here


@contextmanager
def alone() -> Iterator[None]:
    """In the block this process computes for itself."""
    global _here
    before, _here = _here, ALONE
    try:
        yield
    finally:
        _here = before


def join() -> World:
    """Joins the processes that torchrun started, or that torch.distributed knows already. ProcessesApart if they do not
    find each other. Once is enough, and alone it does nothing.
    """
    global _here
    if _here.size > 1 or not dist.is_available():
        return _here
    wait = timeout()
    with heard():
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            gpus = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=wait)
        if dist.is_initialized() and dist.get_world_size() > 1:
            groups = [dist.new_group(backend="gloo", timeout=time) for time in (wait, PATIENCE)]
            local = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
            _here = World(dist.get_rank(), dist.get_world_size(), local, *groups)
    return _here


def leave() -> None:
    """Parts from the processes that `join` joined."""
    global _here
    if _here.size > 1:
        dist.destroy_process_group()
    _here = ALONE
