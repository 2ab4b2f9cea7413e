"""Units with one planted defect each: the check that must catch it, and what it must say."""

import random
from typing import Any

import numpy
import torch
from torch import Generator, Tensor, nn

from robustdistill.builtin.models import digits_net
from robustdistill.logits import Logits
from robustdistill.losses import ce, kl
from robustdistill.types import Attack, Closure, Model, Modifier, Objective, descend

calls: list[int] = []


# ---- objectives -----------------------------------------------------------------------------------------------
def reduced(z: Logits) -> Tensor:
    """The mean over the batch."""
    return ce(z.s_adv, z.y).mean()


def squeezed(z: Logits) -> Tensor:
    """Right but for a batch of one image."""
    return ce(z.s_adv, z.y).unsqueeze(1).squeeze()


def positional(z: Logits, alpha: float = 1.0) -> Tensor:
    """A parameter that can be given by position."""
    return alpha * ce(z.s_adv, z.y)


def untyped(z: Logits, *, alpha=1.0) -> Tensor:  # type: ignore[no-untyped-def]
    """A parameter without annotation."""
    return alpha * ce(z.s_adv, z.y)  # type: ignore[no-any-return]


def mute(z: Logits) -> Tensor:
    return ce(z.s_adv, z.y)


def float32(z: Logits) -> Tensor:
    """Float32 whatever comes."""
    return ce(z.s_adv.float(), z.y)


def infinite(z: Logits) -> Tensor:
    """The logarithm of a probability that underflows."""
    return -z.s_adv.softmax(1).log().gather(1, z.y[:, None])[:, 0]


def rooted(z: Logits) -> Tensor:
    """A root whose gradient is not finite where x' = x."""
    return (z.s - z.s_adv).square().sum(1).sqrt()


def early(z: Logits) -> Tensor:
    """Divides by the epoch: not finite in the first one."""
    return ce(z.s_adv, z.y) / z.epoch


def half(z: Logits) -> Tensor:
    """Stays in bfloat16."""
    return nn.functional.softplus(z.s_adv).sum(1)


def coupled(z: Logits) -> Tensor:
    """Weighted by the batch, not by z.mean."""
    loss = ce(z.s_adv, z.y)
    return loss * loss.detach() / loss.detach().mean()


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return v.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return 2 * grad


def misdifferentiated(z: Logits) -> Tensor:
    """Twice its gradient."""
    return _Wrong.apply(ce(z.s_adv, z.y))  # type: ignore[no-any-return, no-untyped-call]


def detached(z: Logits) -> Tensor:
    """Nothing of S is left to learn."""
    return kl(z.s_adv.detach(), z.t)


def natural(z: Logits) -> Tensor:
    """An inner objective that does not read x'."""
    return ce(z.s, z.y)


def overwriting(z: Logits) -> Tensor:
    """Scales logits that others read."""
    return ce(z.s_adv.mul_(0.5), z.y)


def brightening(z: Logits) -> Tensor:
    """Scales the images."""
    z.x.mul_(0.5)
    return ce(z.s_adv, z.y)


def backward(z: Logits) -> Tensor:
    """Leaves gradients in the student."""
    loss = ce(z.s_adv, z.y)
    loss.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
    return loss


def evaluating(z: Logits) -> Tensor:
    """Puts the student in eval mode."""
    if isinstance(student := z._networks.student, nn.Module):
        student.eval()
    return ce(z.s_adv, z.y)


def dropping(z: Logits) -> Tensor:
    """Draws from torch's global generator."""
    return ce(nn.functional.dropout(z.s_adv, 0.5), z.y)


def numpy_noise(z: Logits) -> Tensor:
    """Draws from numpy's."""
    return ce(z.s_adv, z.y) * float(numpy.random.rand())


def python_noise(z: Logits) -> Tensor:
    """Draws from Python's."""
    return ce(z.s_adv, z.y) * random.random()


def remembering(z: Logits) -> Tensor:
    """Counts its calls in a global."""
    calls.append(1)
    return ce(z.s_adv, z.y) * len(calls)


def reading(z: Logits) -> Tensor:
    """Asks the host for a value."""
    return ce(z.s_adv, z.y) * float(z.s_adv.detach().abs().max())


def masking(z: Logits) -> Tensor:
    """Asks which examples are right."""
    loss = ce(z.s_adv, z.y)
    return torch.zeros_like(loss).index_put((z.s_adv.argmax(1) == z.y,), loss[z.s_adv.argmax(1) == z.y])


class Counted(nn.Module):
    """A counter in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(()))
        self.count = 0

    def forward(self, z: Logits) -> Tensor:
        self.count += 1
        return ce(z.s_adv, z.y) * self.count


class Rebinding(nn.Module):
    """A buffer bound anew."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(()))

    def forward(self, z: Logits) -> Tensor:
        self.w = self.w + 0.5
        return self.w * ce(z.s_adv, z.y)


class Forgetting(nn.Module):
    """State that a checkpoint does not hold, changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(()), persistent=False)

    def forward(self, z: Logits) -> Tensor:
        self.w.add_(0.5)
        return self.w.clone() * ce(z.s_adv, z.y)


class Uncopied(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = (i for i in range(3))

    def forward(self, z: Logits) -> Tensor:
        return ce(z.s_adv, z.y)


class Plain:
    """A class that is no module."""

    def __call__(self, z: Logits) -> Tensor:
        return ce(z.s_adv, z.y)


OBJECTIVES: list[tuple[str, str, Any, str]] = [
    ("shape", "outer", reduced, "returns shape [] for 6 images; it must be [6]"),
    ("shape", "outer", squeezed, "returns shape [] for 1 image; it must be [1]"),
    (
        "signature",
        "outer",
        positional,
        "takes alpha by position; write the parameters after a *: def positional(z, *, ...)",
    ),
    ("signature", "outer", untyped, "annotate the parameter 'alpha'"),
    ("signature", "outer", Plain, "is a class and no nn.Module"),
    ("docstring", "outer", mute, "has no docstring"),
    ("dtype", "outer", float32, "returns torch.float32 for logits in torch.float64"),
    ("finite", "outer", infinite, "is not finite on logits of some hundreds"),
    ("finite", "outer", rooted, "is not finite where x' = x and the student answers as its teacher"),
    ("finite", "outer", early, "is not finite in the first epoch"),
    ("bf16", "outer", half, "returns torch.bfloat16 for bfloat16 logits"),
    ("examples", "outer", coupled, "changes with the other examples of its batch"),
    ("gradient", "outer", misdifferentiated, "has the slope 20.8114 by its gradient and 10.4057 by finite differences"),
    ("gradient", "inner", misdifferentiated, "by its gradient and -1.13353 by finite differences"),
    ("reaches", "outer", detached, "reaches the student"),
    ("reaches", "inner", natural, "reaches x' of every image"),
    ("inputs", "outer", overwriting, "changes logits in place"),
    ("inputs", "inner", brightening, "changes images in place"),
    ("networks", "outer", backward, "leaves gradients in the student"),
    ("networks", "outer", evaluating, "changes the student's mode"),
    ("global-rng", "outer", dropping, "moves torch's global random state"),
    ("global-rng", "outer", numpy_noise, "moves numpy's global random state"),
    ("global-rng", "inner", python_noise, "moves Python's global random state"),
    ("repeats", "outer", remembering, "two fresh calls of remembering on one batch differ"),
    ("meta", "outer", reading, "Tensor.item() cannot be called on meta tensors. Use torch.where"),
    ("meta", "inner", masking, "torch.nonzero()"),
    ("replays", "outer", Counted, "Python value, which a recording freezes"),
    ("in-place", "outer", Rebinding, "changes Rebinding.w, which a recorded step would freeze"),
    ("keeps", "outer", Forgetting, "a fresh one that loaded its state of Forgetting goes on otherwise"),
    ("keeps", "outer", Uncopied, "cannot be copied (copy.deepcopy)"),
]


# ---- attacks --------------------------------------------------------------------------------------------------
def _ascent(z: Logits, objective: Objective, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(objective(z.at(x)).sum(), x)
    return grad.sign()


def step(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """One step: nothing is wrong with it."""
    return (z.x + eps * _ascent(z, objective, z.x)).clamp(0, 1)


def flattened(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """x' of another shape."""
    return step(z, objective, eps=eps).flatten(1)


def grown(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """x' with a graph."""
    return step(z, objective, eps=eps).requires_grad_()


def without_eps(z: Logits, objective: Objective, /, *, generator: Any = None, **others: Any) -> Tensor:
    """Takes no eps by name."""
    return z.x


def loose(z: Logits, objective: Objective, size: float = 1.0, *, eps: float, generator: Any = None) -> Tensor:
    """A parameter by position."""
    return z.x


def silent(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    return z.x


def far(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Leaves the ball."""
    return (z.x + 1.01 * eps * _ascent(z, objective, z.x)).clamp(0, 1)


def unclamped(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Leaves [0, 1]."""
    return z.x + eps * _ascent(z, objective, z.x)


def absolute(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """A step that does not know the radius."""
    return (z.x + 1e-3 * _ascent(z, objective, z.x)).clamp(0, 1)


def descending(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Goes down."""
    return (z.x - eps * _ascent(z, objective, z.x)).clamp(0, 1)


def own_mind(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Darkens, whatever it is asked to ascend."""
    return (z.x - eps).clamp(0, 1)


def by_label(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Moves the images of even classes alone."""
    even = (z.y % 2 == 0).to(z.x.dtype)[:, None, None, None]
    return (z.x + even * eps * _ascent(z, objective, z.x)).clamp(0, 1)


def in_place(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Changes the images themselves."""
    return z.x.add_(0.5 * eps * _ascent(z, objective, z.x)).clamp_(0, 1)


def accumulating(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Leaves gradients in the network."""
    x = z.x.clone().requires_grad_()
    objective(z.at(x)).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return (z.x + eps * x.grad.sign()).clamp(0, 1)


def global_noise(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Draws from the global generator."""
    return (z.x + eps * torch.rand_like(z.x) * _ascent(z, objective, z.x)).clamp(0, 1)


def stopping(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Stops when all are wrong."""
    x_adv = step(z, objective, eps=eps / 2)
    if bool((objective(z.at(x_adv)) > 1e9).all()):
        return x_adv
    return step(z, objective, eps=eps)


ATTACKS: list[tuple[str, Any, str]] = [
    ("shape", flattened, "returns [4, 64] in torch.float32 for images [4, 1, 8, 8]"),
    ("shape", grown, "an x' with a graph behind it"),
    ("signature", without_eps, "does not take eps by keyword"),
    ("signature", loose, "takes size by position"),
    (
        "signature",
        Attack(step, None, {"stepps": 3}, "a preset that does not exist"),
        "the presets of step: unknown key 'stepps'",
    ),
    ("docstring", silent, "has no summary"),
    ("budget", far, "leaves the ball: x' is 0.00101 from x, and eps is 0.001"),
    ("budget", unclamped, "leaves [0, 1]: x' goes from -0.001 to 1.001"),
    ("zero", absolute, "where eps is 0"),
    ("ascends", descending, "lowers its own objective"),
    ("ascends", own_mind, "lowers its own objective"),
    ("labels", by_label, "reads z.y itself"),
    ("inputs", in_place, "changes z.x or z.y"),
    ("networks", accumulating, "leaves gradients in the network"),
    ("draws", global_noise, "gives another x' for the same generator"),
    ("meta", stopping, "a fixed number of steps"),
]


# ---- models ---------------------------------------------------------------------------------------------------
class Net(nn.Module):
    """A convolution and a linear layer, with a defect by name."""

    def __init__(self, defect: str, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.defect, self.kept = defect, torch.randn(())
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1, stride=2)
        self.fc = nn.Linear(4 * 16, 10 if defect == "ten classes" else num_classes)
        self.register_buffer("seen", torch.zeros(()))
        if defect == "numpy":
            nn.init.constant_(self.fc.weight, float(numpy.random.rand()))
        if defect == "seeded":
            torch.manual_seed(0)
            nn.init.normal_(self.fc.weight)
            self.conv.reset_parameters()
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        defect = self.defect
        if defect == "rounding":
            x = (x * 255).round() / 255
        h = torch.relu(self.conv(x)).flatten(1)
        if defect == "dropout":
            h = nn.functional.dropout(h, 0.5)
        if defect == "counting":
            self.seen += 1
        if defect == "batch statistics":
            h = h - h.mean(0)
        if defect == "whitening":
            h = h / (x.flatten(1).std(1, keepdim=True) > 1e-6)
        out: Tensor = self.fc(h)
        if defect == "half":
            out = out + (1e9 if out.dtype == torch.bfloat16 else 0)
        if defect == "branch" and out.sum() > 0:
            return out + 0
        return out * self.kept if defect == "unsaved" else out


def _built(defect: str) -> Any:
    def build(*, num_classes: int, in_channels: int) -> nn.Module:
        return Net(defect, num_classes, in_channels)

    return build


def positional_build(num_classes: int, channels: int = 1, **_: int) -> nn.Module:
    """Built from the wrong words."""
    return Net("", num_classes, channels)


MODELS: list[tuple[str, Model, str]] = [
    (
        "logits",
        Model(_built("ten classes"), None, "always ten classes"),
        "gives logits [3, 10] for 3 images and 7 classes",
    ),
    ("signature", Model(positional_build, None, "no in_channels"), "is not built from in_channels"),
    ("summary", Model(_built("")), "has no summary"),
    ("eval-mode", Model(_built("dropout"), None, "dropout in eval mode"), "answers otherwise the second time"),
    ("eval-mode", Model(_built("counting"), None, "a buffer that moves in eval mode"), "changes seen in eval mode"),
    (
        "examples",
        Model(_built("batch statistics"), None, "batch statistics in eval mode"),
        "other logits in another batch",
    ),
    ("pixels", Model(_built("whitening"), None, "divides by the contrast"), "not finite for black images"),
    ("gradient", Model(_built("rounding"), None, "rounds its input"), "reaches its images"),
    ("bf16", Model(_built("half"), None, "overflows in bfloat16"), "under bfloat16 autocast"),
    ("initial", Model(_built("numpy"), None, "initial weights of numpy"), "other initial weights from the same seed"),
    ("initial", Model(_built("seeded"), None, "seeds torch itself"), "the same initial weights from every seed"),
    (
        "weights",
        Model(_built("unsaved"), None, "a value that is no buffer"),
        "some of its state is not in state_dict()",
    ),
    (
        "recognise",
        Model(digits_net.build, lambda w: None, "does not know itself"),
        "does not recognise its own weights",
    ),
    (
        "recognise",
        Model(digits_net.build, lambda w: {"width": 3}, "another width, and every stranger's weights"),
        "as {'width': 3}, which builds other shapes",
    ),
    (
        "recognise",
        Model(_built(""), lambda w: {} if "fc.weight" in w else None, "takes a stranger's weights"),
        "takes weights named conv.weight",
    ),
    ("meta", Model(_built("branch"), None, "branches on a value"), "Tensor.item() cannot be called on meta tensors"),
]


# ---- modifiers ------------------------------------------------------------------------------------------------
class ByPosition(Modifier):
    """A parameter by position."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()


class HalfDeclared(Modifier):
    """An update that is never asked for."""

    def update(self, student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
        return descend(student, closure, optimizer)


class Mute(Modifier):
    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        return inner, outer


class Unpaired(Modifier):
    """Returns the outer objective alone."""

    def wrap(self, inner: Objective, outer: Objective) -> Any:
        return outer


class Reducing(Modifier):
    """Reduces over the batch."""

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        return inner, lambda z: outer(z).mean()


class _Updating(Modifier):
    replaces_update = True


class Idle(_Updating):
    """Takes no step."""

    def update(self, student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
        return closure().detach()


class Attached(_Updating):
    """Returns a loss with its graph."""

    def update(self, student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
        descend(student, closure, optimizer)
        return closure()


class Leaving(_Updating):
    """Perturbs the weights and does not take it back."""

    def update(self, student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
        with torch.no_grad():
            for p in student.parameters():
                p.mul_(1.01)
        return descend(student, closure, optimizer)


class Evaluating(_Updating):
    """Leaves the student in eval mode."""

    def update(self, student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
        return descend(student.eval(), closure, optimizer)


class Noisy(Modifier):
    """Draws from the global generator."""

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        return inner, lambda z: outer(z) * torch.rand(())


class Ramping(Modifier):
    """Counts steps in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        def counted(z: Logits) -> Tensor:
            self.count += 1
            return outer(z) * self.count

        return inner, counted


class Rebound(Modifier):
    """Binds its buffer anew."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(()))

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        def weighted(z: Logits) -> Tensor:
            self.w = self.w * 1.5
            return outer(z) * self.w

        return inner, weighted


class Unsaved(Modifier):
    """State in place that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(()), persistent=False)

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        def weighted(z: Logits) -> Tensor:
            self.w.mul_(1.1)
            return outer(z) * self.w.clone()

        return inner, weighted

    def end_epoch(self) -> None:
        self.w.add_(1)


MODIFIERS: list[tuple[str, Any, str]] = [
    ("signature", ByPosition, "takes weight by position"),
    ("signature", HalfDeclared, "overrides update alone"),
    ("signature", descend, "is no subclass of robustdistill.Modifier"),
    ("docstring", Mute, "has no docstring"),
    ("meta", Unpaired, "cannot unpack non-iterable"),
    ("meta", Reducing, "a loss of shape []; it must be one per example"),
    ("update", Idle, "leaves the weights where they were"),
    ("update", Attached, "returns the loss it descended, loss.detach()"),
    ("leaves", Leaving, "leaves the weights 0.01 of their length away"),
    ("leaves", Evaluating, "leaves the student in another mode"),
    ("global-rng", Noisy, "moves torch's global random state"),
    ("replays", Ramping, "Python value, which a recording freezes"),
    ("in-place", Rebound, "changes Rebound.w, which a recorded step would freeze"),
    ("keeps", Unsaved, "a fresh one that loaded its state of Unsaved goes on otherwise"),
]

# What else fails, for a reason of its own: a defect that is two.
ALSO = {
    "float32": {"gradient"},  # of rounded values
    "infinite": {"bf16"},
    "rooted": {"bf16"},
    "detached": {"meta"},
    "natural": {"meta"},
    "reading": {"examples", "replays"},
    "masking": {"reaches", "replays"},
    "Counted": {"in-place", "keeps"},
    "Rebinding": {"replays"},
    "step": {"shape"},  # whose preset cannot be given
    "descend": {"meta", "global-rng"},
    "Unpaired": {"meta", "global-rng"},
    "Ramping": {"in-place", "keeps"},
    "Rebound": {"replays"},
}
