"""One network under a list of attacks: a verdict for every example, each re-judged by a fresh forward."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.errors import PluginError, UserError
from robustdistill.evaluation.checks import check_images, check_labels, check_logits
from robustdistill.logits import Forward, Logits, Networks
from robustdistill.modes import attacked
from robustdistill.types import Attack, Objective

MakeGenerator = Callable[[str, int], torch.Generator]
"""(attack name, index of the batch's first example) -> the randomness of that batch."""


@dataclass(frozen=True)
class Verdict:
    """What one attack left: `correct[i]` says that example i is still classified right."""

    attack: str
    eps: float
    correct: Tensor
    labels: Tensor
    params: Mapping[str, Any]
    seconds: float
    alarms: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Fraction of examples still classified right, in [0, 1]."""
        return float(self.correct.double().mean())

    def per_class(self) -> list[float | None]:
        """Accuracy of each class that occurs (None for one that does not)."""
        classes = range(int(self.labels.max()) + 1)
        parts = [self.correct[self.labels == c].double() for c in classes]
        return [float(p.mean()) if len(p) else None for p in parts]

    def plain(self) -> dict[str, Any]:
        """The verdict as JSON values, every example's included."""
        low, high = wilson(self.accuracy, len(self.correct))
        classes = self.per_class()
        return {
            "attack": self.attack,
            "eps": self.eps,
            "n": len(self.correct),
            "accuracy": self.accuracy,
            "interval95": [low, high],
            "per_class": classes,
            "worst_class": min((c for c in classes if c is not None), default=None),
            "params": dict(self.params),
            "seconds": self.seconds,
            "alarms": list(self.alarms),
            "correct": "".join("1" if c else "0" for c in self.correct.tolist()),
        }


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson score interval of a fraction `p` of `n` examples."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def judge(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    name: str,
    attack: Attack,
    *,
    eps: float,
    generator: MakeGenerator,
    batch_size: int = 250,
    forward: Forward | None = None,
) -> Verdict:
    """One attack on images `x` `[N, C, H, W]` (uint8, or float in [0, 1]) with labels `y` `[N]`.

    The network is in eval mode and frozen meanwhile and left as it was found. `eps` is the L-inf radius. `forward`
    stands in for the network where speed matters more than the last digits: selection, never a reported verdict.
    Raises UserError for images, labels or logits that cannot be judged, PluginError for an attack that
    leaves the ball.
    """
    check_images(x)
    check_labels(y, len(x))
    began, parts, plain = time.perf_counter(), [], _plain(network)
    with warnings.catch_warnings(record=True) as caught, attacked(network), nullcontext() if forward else _exact():
        warnings.simplefilter("always", UserWarning)
        for i in range(0, len(x), batch_size):
            batch = _on_device(x[i : i + batch_size], network), y[i : i + batch_size].to(_home(network).device)
            check_logits(plain, *batch)
            parts.append(_batch(forward or plain, *batch, name, attack, eps, generator(name, i)))
    alarms = tuple(dict.fromkeys(str(w.message) for w in caught))
    correct = torch.cat(parts).cpu()
    return Verdict(name, eps, correct, y.cpu(), attack.params, time.perf_counter() - began, alarms)


def evaluate_all(
    network: nn.Module, x: Tensor, y: Tensor, attacks: Mapping[str, Attack], **common: Any
) -> Iterator[Verdict]:
    """`judge` for each attack, then `worst`: right under all of them (where there are several)."""
    verdicts = []
    for name, attack in attacks.items():
        verdicts.append(judge(network, x, y, name, attack, **common))
        yield verdicts[-1]
    if len(verdicts) > 1:
        yield worst(verdicts)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The examples that survive every attack."""
    correct = torch.stack([v.correct for v in verdicts]).all(dim=0)
    last = verdicts[-1]
    return Verdict("worst", last.eps, correct, last.labels, {"over": [v.attack for v in verdicts]}, 0.0)


def _batch(
    network: Forward, x: Tensor, y: Tensor, name: str, attack: Attack, eps: float, generator: torch.Generator
) -> Tensor:
    z = Logits(x, y, Networks(student=network))
    x_adv = attack.run(z, attack.objective or _no_objective(name), eps=eps, generator=generator, **attack.params)
    _check_ball(name, x, x_adv, eps)
    logits = z.student(x_adv.detach())
    if not bool((finite := logits.isfinite().all(dim=1)).all()):
        warnings.warn("logits on some attacked images are not finite; these count as wrong", UserWarning, stacklevel=2)
    correct: Tensor = (logits.argmax(dim=1) == y) & finite
    return correct


def _plain(network: nn.Module) -> Forward:
    return lambda v: network(v.to(_home(network).dtype))


def _no_objective(name: str) -> Objective:
    def missing(z: Logits) -> Tensor:
        raise UserError(f"attack {name!r} has no objective of its own and cannot evaluate; it is for training only")

    return missing


def _check_ball(name: str, x: Tensor, x_adv: Tensor, eps: float) -> None:
    inside = (x_adv - x).abs().amax() <= eps + 1e-6 and x_adv.amin() >= 0 and x_adv.amax() <= 1
    if x_adv.shape != x.shape or not inside:
        raise PluginError(f"attack {name!r} left the ball of radius {eps:.4g} or the pixel range [0, 1]")


def _home(network: nn.Module) -> Tensor:
    return next(network.parameters(), torch.empty(0))


def _on_device(x: Tensor, network: nn.Module) -> Tensor:
    home = _home(network)
    dtype = torch.float64 if home.dtype == torch.float64 else torch.float32  # half precision would leave the ball
    moved = x.to(home.device, dtype)
    return moved / 255 if x.dtype == torch.uint8 else moved


@contextmanager
def _exact() -> Iterator[None]:
    """Convolutions in true float32, by deterministic kernels: what is reported must not depend on TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
