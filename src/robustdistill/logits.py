"""The tensors of one batch, each computed when first read: `z.s`, `z.s_adv`, `z.t`, `z.t_adv`, `z.y`.

An objective is a function of this object and nothing else. What it does not read is never run.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Generator, Tensor

from robustdistill.errors import UserError

Forward = Callable[[Tensor], Tensor]
Draw = Callable[[int, Generator | None], Tensor]
"""(n, generator) -> random numbers `[n, ...]` for n examples."""

DEFAULT_ROLE = "robust"


@dataclass(frozen=True)
class Networks:
    """The forwards that a batch can ask for: images `[B, C, H, W]` in [0, 1] -> logits `[B, classes]`.

    `student` is the learning student; `attacked` is the student as an attack sees it (the same module in
    eager mode, a separate graph when compiled). Teachers are frozen, in eval mode, named by their role.
    """

    student: Forward
    teachers: Mapping[str, Forward] = field(default_factory=dict)
    attacked: Forward | None = None


@dataclass(frozen=True)
class Clock:
    """Where training stands, as device scalars: a captured step must not freeze them."""

    epoch: Tensor
    epochs: Tensor

    @classmethod
    def at(cls, epoch: int, epochs: int, device: torch.device | str = "cpu") -> Self:
        return cls(torch.tensor(epoch, device=device), torch.tensor(epochs, device=device))


@dataclass(frozen=True)
class Reductions:
    """Reductions over the global batch, and draws for it; several processes replace these local ones.

    `drawn(draw, n, generator)` are the numbers of the `n` examples that this process has of it, `size(n)` is how many
    it has in all.
    """

    mean: Callable[[Tensor], Tensor] = torch.mean
    min: Callable[[Tensor], Tensor] = torch.min
    total: Callable[[Tensor], Tensor] = lambda v: v
    drawn: Callable[[Draw, int, Generator | None], Tensor] = lambda draw, n, generator: draw(n, generator)
    size: Callable[[int], int] = lambda n: n


class Logits:
    """The lazily computed logits of one batch.

    z.s, z.s_adv, z.t, z.t_adv are S(x), S(x'), T(x), T(x'), all `[B, classes]`; z.y `[B]`; z.x, z.x_adv
    the images. Each forward runs on first read and is kept. Order of reads is order of forwards, hence of
    BatchNorm updates.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        networks: Networks,
        *,
        clock: Clock | None = None,
        reductions: Reductions | None = None,
    ) -> None:
        self.x, self.y, self.x_adv = x, y, x
        self.terms: dict[str, Tensor] = {}
        self._networks = networks
        self._clock = clock or Clock.at(0, 1, x.device)
        self._reductions = reductions or Reductions()
        self._role = DEFAULT_ROLE
        self._learning = False
        self._batch: dict[Hashable, Tensor] = {}  # T(x) and `once`: kept for the batch
        self._natural: dict[Hashable, Tensor] = {}  # S(x): kept while the student does not change
        self._adversarial: dict[Hashable, Tensor] = {}  # S(x'), T(x'): kept for this x'

    # ---- the four tensors -------------------------------------------------------------------------------
    @property
    def s(self) -> Tensor:
        """S(x)."""
        return self._keep(self._natural, "s", lambda: self.student(self.x))

    @property
    def s_adv(self) -> Tensor:
        """S(x')."""
        return self._keep(self._adversarial, "s", lambda: self.student(self.x_adv))

    @property
    def t(self) -> Tensor:
        """T(x), of the teacher in the T seat (see `by`)."""
        return self._keep(self._batch, ("t", self._role), lambda: self.teacher(self.x))

    @property
    def t_adv(self) -> Tensor:
        """T(x'). Gradients reach x' through it unless the objective detaches."""
        return self._keep(self._adversarial, ("t", self._role), lambda: self.teacher(self.x_adv))

    # ---- explicit forwards, not kept --------------------------------------------------------------------
    def student(self, v: Tensor) -> Tensor:
        """S(v): a forward of its own, never kept."""
        networks = self._networks
        return _forward(networks.student if self._learning else networks.attacked or networks.student, v)

    def teacher(self, v: Tensor, role: str | None = None) -> Tensor:
        """T(v) of the teacher `role` (default: the one in the T seat), never kept."""
        role = role or self._role
        try:
            network = self._networks.teachers[role]
        except KeyError:
            raise UserError(self._no_teacher(role)) from None
        return _forward(network, v)

    # ---- the same batch, seen otherwise -----------------------------------------------------------------
    def at(self, x_adv: Tensor) -> Self:
        """The next attack step: keeps S(x), T(x) and `once`, forgets S(x') and T(x')."""
        z = self._copy()
        z.x_adv, z._adversarial = x_adv, {}
        return z

    def update(self, x_adv: Tensor) -> Self:
        """The learning phase: keeps T(x) and `once`; the student runs again, in train mode."""
        z = self.at(x_adv)
        z._natural, z._learning, z.terms = {}, True, {}
        return z

    def by(self, role: str) -> Self:
        """The same batch with the teacher `role` in the T seat; everything kept is shared."""
        z = self._copy()
        z._role = role
        return z

    def once(self, key: Hashable, fn: Callable[[], Tensor]) -> Tensor:
        """`fn()`, computed once for the batch and kept through `at`, `update` and `by`."""
        return self._keep(self._batch, ("once", key), fn)

    # ---- time, reductions, terms ------------------------------------------------------------------------
    @property
    def epoch(self) -> Tensor:
        """The current epoch, from 0, as a device scalar."""
        return self._clock.epoch

    @property
    def epochs(self) -> Tensor:
        """The number of epochs of the schedule, as a device scalar."""
        return self._clock.epochs

    @property
    def progress(self) -> Tensor:
        """epoch / epochs, as a device scalar."""
        return self.epoch / self.epochs

    def mean(self, v: Tensor) -> Tensor:
        """Mean of `v` over the global batch, right under several processes."""
        return self._reductions.mean(v)

    def min(self, v: Tensor) -> Tensor:
        """Minimum of `v` over the global batch, right under several processes."""
        return self._reductions.min(v)

    def total(self, v: Tensor) -> Tensor:
        """`v`, a sum over the examples of this batch, added up over the global one; with one process `v` itself."""
        return self._reductions.total(v)

    @property
    def batch_size(self) -> int:
        """How many examples the global batch has; with one process `len(z.y)`."""
        return self._reductions.size(len(self.y))

    def drawn(self, draw: Draw, generator: Generator | None) -> Tensor:
        """`draw(n, generator)` `[B, ...]`: random numbers that do not depend on how many processes share the batch.

        Several draw them for the global batch, from a generator that they have in common, and keep their own rows.
        """
        return self._reductions.drawn(draw, len(self.x), generator)

    def term(self, name: str, value: Tensor) -> Tensor:
        """`value` `[B]` itself, noted as a term of the loss: the engine reports its size and gradient."""
        self.terms[name] = value
        return value

    # ---- inside -----------------------------------------------------------------------------------------
    def _keep(self, memo: dict[Hashable, Tensor], key: Hashable, fn: Callable[[], Tensor]) -> Tensor:
        if key not in memo:
            memo[key] = fn()
        return memo[key]

    def _copy(self) -> Self:
        z = object.__new__(type(self))
        z.__dict__.update(self.__dict__)
        return z

    def _no_teacher(self, role: str) -> str:
        have = ", ".join(sorted(self._networks.teachers))
        if not have:
            return f"the objective reads a teacher ({role!r}) and the run has none; name one with --teacher"
        return f"the objective reads the teacher {role!r}; the run has: {have}. Add --teacher {role}=NAME"


def _forward(network: Forward, v: Tensor) -> Tensor:
    # A first read inside no_grad would otherwise keep a graph-less tensor: same loss, wrong gradient.
    with torch.enable_grad():
        return network(v)
