"""All that changes while a run goes: saved between two steps, it is where an unbroken run would stand."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from robustdistill.engine.tally import Tally
from robustdistill.types import Weights


class Average:
    """A running average of a network's weights and buffers; `count` networks have gone into it.

    torch's AveragedModel is the same, but asks the device for a value at every update.
    """

    def __init__(self, network: nn.Module, rule: Callable[..., None]) -> None:
        self.module, self.count, self._rule = copy.deepcopy(network).requires_grad_(False), 0, rule

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes `network` in; the first one is taken as it is. Counters (integer buffers) are the newest's."""
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        floats = [(mine, new) for mine, new in pairs if mine.is_floating_point()] if self.count else []
        if floats:
            self._rule(*map(list, zip(*floats, strict=True)), self.count)
        for mine, new in pairs:
            if not (self.count and mine.is_floating_point()):
                mine.copy_(new)
        self.count += 1


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [t.detach() for t in (*network.parameters(), *network.buffers())]


@dataclass
class State:
    """The student, its optimiser, the method's own units, the average of weights, and where the run stands.

    `epoch` counts the epochs done, trained and judged; `step` the steps done of the next one, and `tally` is what they
    add up to. `best` is the best epoch's record, `history` every epoch's.
    """

    student: nn.Module
    units: nn.ModuleList
    optimizer: torch.optim.Optimizer
    average: Average | None = None
    epoch: int = 0
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated: the average where there is one that has begun, else the student."""
        begun = self.average is not None and self.average.count > 0
        return self.average.module if self.average is not None and begun else self.student

    @property
    def judged_file(self) -> str:
        """Which of `weights` is the network that is evaluated."""
        return "student" if self.judged is self.student else "average"

    def next_epoch(self) -> None:
        """An epoch is done."""
        self.epoch, self.step, self.tally = self.epoch + 1, 0, Tally(row=self.tally.row)

    def weights_and_momenta(self) -> list[torch.Tensor]:
        """What the optimiser moves, its own memory, the averages, and the student's running statistics."""
        memory = [v for kept in self.optimizer.state.values() for v in kept.values() if isinstance(v, torch.Tensor)]
        averages = _tensors(self.average.module) if self.average is not None else []
        own = [*_tensors(self.student), *(p.detach() for p in self.units.parameters())]
        return [t for t in (*own, *memory, *averages) if t.is_floating_point()]

    def tensors(self) -> list[torch.Tensor]:
        """All that a step changes on the device."""
        counters = [t for t in _tensors(self.student) if not t.is_floating_point()]
        averaged = _tensors(self.average.module) if self.average is not None else []
        counters += [t for t in averaged if not t.is_floating_point()]
        return [*self.weights_and_momenta(), *counters, *(b.detach() for b in self.units.buffers())]

    def named(self) -> dict[str, torch.Tensor]:
        """The same by name: what has to be equal in all processes of a run."""
        known = {t.data_ptr(): name for name, t in self.student.state_dict().items()}
        return {known.get(t.data_ptr(), f"state {i}"): t for i, t in enumerate(self.tensors())}

    def weights(self) -> dict[str, Weights]:
        """The weights a checkpoint holds, by file."""
        files = {"student": self.student.state_dict()}
        return files | ({"average": self.average.module.state_dict()} if self.average is not None else {})

    def record(self) -> dict[str, Any]:
        """What else a checkpoint holds: tensors and plain values only."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "tally": self.tally.record(),
            "best": self.best,
            "history": self.history,
            "optimizer": self.optimizer.state_dict(),
            "units": self.units.state_dict(),
            "averaged": self.average.count if self.average is not None else 0,
        }

    def restore(self, weights: Mapping[str, Weights], record: Mapping[str, Any]) -> None:
        """Puts the state of a checkpoint in place, strictly."""
        self.student.load_state_dict(weights["student"])
        if self.average is not None:
            self.average.module.load_state_dict(weights["average"])
            self.average.count = record["averaged"]
        self.units.load_state_dict(record["units"])
        self.optimizer.load_state_dict(record["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"].to(group["params"][0].device)
        self.epoch, self.best, self.history = record["epoch"], record["best"], record["history"]
        self.step, self.tally = record["step"], Tally.of(record["tally"], next(self.student.parameters()).device)


def sgd(parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, nesterov: bool) -> Any:
    """Fused SGD whose learning rate is a device scalar: the other implementations read it on the host."""
    params = list(parameters)
    optimizer = torch.optim.SGD(
        params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
    )
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(lr, device=params[0].device)
    for p in params if momentum else ():  # there before the first step (0 m + g = g), so that a step can be undone
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group in place."""
    for group in optimizer.param_groups:
        group["lr"].fill_(lr)


def averaged(student: nn.Module, name: str, decay: float) -> Average | None:
    """The running average `ema` (with `decay`) or `swa` (equal weights) of weights and buffers, or None."""
    if name == "none":
        return None
    rule = get_ema_multi_avg_fn(decay) if name == "ema" else get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
    return Average(student, rule)
