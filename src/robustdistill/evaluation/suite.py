"""One network under a list of attacks: a verdict for every example, each re-judged by a fresh forward."""

import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.errors import PluginError, UserError
from robustdistill.evaluation.checks import check_images, check_labels, check_logits
from robustdistill.evaluation.fitting import fitted, in_parts
from robustdistill.evaluation.keep import Keep, Tensors, once, read, spelt
from robustdistill.evaluation.verdict import Verdict, worst
from robustdistill.logits import Forward, Logits, Networks
from robustdistill.modes import attacked
from robustdistill.types import Attack, Objective

MakeGenerator = Callable[[str, int], torch.Generator]
"""(attack name, index of the batch's first example) -> the randomness of that batch."""

BATCH = 250


def judge(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    name: str,
    attack: Attack,
    *,
    eps: float,
    generator: MakeGenerator,
    batch_size: int = BATCH,
    at_once: int = BATCH,
    forward: Forward | None = None,
    keep: Keep | None = None,
) -> Verdict:
    """One attack on images `x` `[N, C, H, W]` (uint8, or float in [0, 1]) with labels `y` `[N]`.

    The network is in eval mode and frozen meanwhile and left as it was found. `eps` is the L-inf radius. The attack
    sees `batch_size` images at a time, which draw their noise together; the network at most `at_once` of them, fewer
    when memory runs out, which changes no verdict. `forward` stands in for the network where speed matters more than
    the last digits: selection, never a reported verdict. What `keep` holds is not computed again.
    Raises UserError for images, labels or logits that cannot be judged, PluginError for an attack that
    leaves the ball.
    """
    check_images(x)
    check_labels(y, len(x))
    began, parts, plain = time.perf_counter(), [], _plain(network)

    def part(start: int, size: int) -> Tensors:
        images, labels = _on_device(network, x[start : start + batch_size], y[start : start + batch_size])
        with _heard() as alarms:
            check_logits(in_parts(plain, size), images, labels)
            z = Logits(images, labels, Networks(student=in_parts(forward or plain, size)))
            right = _right(z, name, attack, eps, generator(name, start))
        return {"right": right.cpu(), "alarms": spelt(alarms)}

    def kept(start: int, size: int) -> Tensors:
        return once(keep, f"{name}-{start}", lambda: part(start, size))

    with attacked(network), nullcontext() if forward else _exact():
        for start in range(0, len(x), batch_size):
            done, at_once = fitted(functools.partial(kept, start), at_once)
            parts.append(done)
    alarms = tuple(dict.fromkeys(sentence for done in parts for sentence in read(done["alarms"])))
    right = torch.cat([done["right"] for done in parts])
    return Verdict(name, eps, right, y.cpu(), attack.params, time.perf_counter() - began, alarms)


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


def _right(z: Logits, name: str, attack: Attack, eps: float, generator: torch.Generator) -> Tensor:
    """Which images are classified right after the attack, by a fresh forward: bool `[B]`."""
    x_adv = attack.run(z, attack.objective or _no_objective(name), eps=eps, generator=generator, **attack.params)
    _check_ball(name, z.x, x_adv, eps)
    logits = z.student(x_adv.detach())
    if not bool((finite := logits.isfinite().all(dim=1)).all()):
        warnings.warn("logits on some attacked images are not finite; these count as wrong", UserWarning, stacklevel=2)
    correct: Tensor = (logits.argmax(dim=1) == z.y) & finite
    return correct


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Python's warnings of the block, as sentences, once it is over."""
    sentences: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield sentences
    sentences.extend(dict.fromkeys(" ".join(str(w.message).split()) for w in caught))


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


def _on_device(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    home = _home(network)
    dtype = torch.float64 if home.dtype == torch.float64 else torch.float32  # half precision would leave the ball
    moved = x.to(home.device, dtype)
    return moved / 255 if x.dtype == torch.uint8 else moved, y.to(home.device)


@contextmanager
def _exact() -> Iterator[None]:
    """Convolutions in true float32, by deterministic kernels: what is reported must not depend on TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
