"""A training loop in the style of the published ARD scripts: what the engine's speed is measured against.

Written from the formulas of SAT, TRADES, RSLAD and MMARD, on torch, torchvision, numpy and Pillow alone, with the
habits of the published scripts: images augmented one by one through PIL in DataLoader workers, float32 eager mode in
torch's default layout and precision, networks whose parameters are never frozen. TRADES computes S(x) anew at each
attack step.

Where those scripts differ, mostly the cheaper habit is taken, so that a speed-up over this loop is not overstated: the
attack asks autograd for the gradient on x' alone (TRADES, RSLAD, AdaAD; IAD's port of SAT calls backward(), which
computes the weights' gradients too, and counts right answers in Python); noise is drawn on the device, not copied.
Dearer than some are three: the loss is read back at each step (IAD, AdaAD), not at each hundredth (TRADES, RSLAD);
memory is not pinned (RSLAD, IAD); cudnn stays as torch has it, neither deterministic (RSLAD) nor tuned (AdaAD).

MMARD has no public code: it is AdaAD's loop (the attack's gradient runs through both networks) and, literally, TRD
(arXiv 2503.06559, Eq. 5 and 6). The KL of RSLAD and MMARD is a mean over batch and classes (`element_mean`), as RSLAD
and AdaAD have it on CIFAR-10; that of TRADES a mean over the batch. RSLAD's script adds 1e-5 inside a logarithm, which
changes the printed loss and no gradient; it is left out.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

METHODS = ("nature", "sat", "trades", "rslad", "mmard")
Ascend = Callable[[Tensor], Tensor]


# ---- losses ---------------------------------------------------------------------------------------------
def kl(logits: Tensor, target: Tensor) -> Tensor:
    """The terms of KL(softmax(target) || softmax(logits)), `[B, C]`, to be summed or averaged."""
    return F.kl_div(F.log_softmax(logits, dim=1), F.softmax(target, dim=1), reduction="none")


def psi(natural: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
    """<e(v), e(v')> with e(v) = (v - onehot(y)) / ||v - onehot(y)|| on probabilities, literally. `[B]`."""
    label = F.one_hot(y, natural.shape[1])
    e, e_adv = (F.normalize(F.softmax(z, dim=1) - label, dim=1) for z in (natural, adversarial))
    return (e * e_adv).sum(dim=1)


def inner_loss(
    method: str, student: nn.Module, teacher: nn.Module | None, x_adv: Tensor, x: Tensor, y: Tensor, t: Tensor | None
) -> Tensor:
    """What the attack ascends; `t` is T(x), computed once (RSLAD). A scalar whose scale sign() makes irrelevant."""
    s_adv = student(x_adv)
    match method:
        case "sat":
            return F.cross_entropy(s_adv, y)
        case "trades":
            return kl(s_adv, student(x)).sum()
        case "rslad":
            assert t is not None
            return kl(s_adv, t).sum()
        case "mmard":
            assert teacher is not None
            return kl(s_adv, teacher(x_adv)).sum()
    raise ValueError(f"no inner loss for {method!r}; there is one for {', '.join(METHODS[1:])}")


def outer_loss(
    method: str, student: nn.Module, teacher: nn.Module | None, x_adv: Tensor, x: Tensor, y: Tensor, t: Tensor | None
) -> Tensor:
    """What the student descends, a scalar; its forwards run in the order of the method's source."""
    match method:
        case "nature":
            return F.cross_entropy(student(x), y)
        case "sat":
            return F.cross_entropy(student(x_adv), y)
        case "trades":
            natural = F.cross_entropy(student(x), y)
            return natural + 6 * kl(student(x_adv), student(x)).sum() / len(x)
        case "rslad":
            assert t is not None
            return 5 / 6 * kl(student(x_adv), t).mean() + 1 / 6 * kl(student(x), t).mean()
        case "mmard":
            assert teacher is not None
            s_adv, s = student(x_adv), student(x)
            with torch.no_grad():
                t_adv, t = teacher(x_adv), teacher(x)
            return kl(s_adv, t_adv).mean() + F.smooth_l1_loss(psi(s, s_adv, y), psi(t, t_adv, y))
    raise ValueError(f"no outer loss for {method!r}; there is one for {', '.join(METHODS)}")


# ---- one step -------------------------------------------------------------------------------------------
def start(method: str, x: Tensor, eps: float) -> Tensor:
    """x'_0: uniform in the ball and clipped for SAT, x + 0.001 N(0, 1) for the others."""
    if method == "sat":
        return torch.clamp(x + torch.empty_like(x).uniform_(-eps, eps), 0.0, 1.0)
    return x + 0.001 * torch.randn_like(x)


def attack(
    student: nn.Module, ascend: Ascend, x_adv: Tensor, x: Tensor, *, eps: float, steps: int, step_size: float = 2 / 255
) -> Tensor:
    """x' from `x_adv` by sign-gradient ascent in the ball around x and in [0, 1], the student in eval mode."""
    student.eval()
    for _ in range(steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = ascend(x_adv)
        grad = torch.autograd.grad(loss, [x_adv])[0]
        x_adv = x_adv.detach() + step_size * torch.sign(grad)
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    student.train()
    return x_adv.detach()


def step(
    method: str,
    student: nn.Module,
    teacher: nn.Module | None,
    x: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    eps: float,
    steps: int = 10,
    step_size: float = 2 / 255,
) -> float:
    """One training step on images x `[B, C, H, W]` in [0, 1] with labels y `[B]`. Returns the outer loss."""
    x_adv, t = x, None
    if method == "rslad":
        assert teacher is not None
        with torch.no_grad():
            t = teacher(x)

    def ascend(v: Tensor) -> Tensor:
        return inner_loss(method, student, teacher, v, x, y, t)

    if method != "nature":
        x_adv = attack(student, ascend, start(method, x, eps), x, eps=eps, steps=steps, step_size=step_size)
    student.train()
    optimizer.zero_grad()
    loss = outer_loss(method, student, teacher, x_adv, x, y, t)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


# ---- data and epoch -------------------------------------------------------------------------------------
class Images(Dataset[tuple[Tensor, int]]):
    """uint8 images `[N, C, H, W]` and labels `[N]`, kept and handed out one by one as torchvision's CIFAR10 does."""

    def __init__(self, images: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        rows = np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
        self.rows = rows[..., 0] if rows.shape[-1] == 1 else rows
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.rows[index])), self.labels[index]


def loader(images: Tensor, labels: Tensor, *, batch_size: int, pad: int, flip: bool, workers: int) -> DataLoader[Any]:
    """Shuffled, augmented float32 batches in [0, 1]; the last one may be smaller."""
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    crop = transforms.RandomCrop(tuple(images.shape[-2:]), padding=pad)
    data = Images(images, labels, transforms.Compose([crop, *mirror, transforms.ToTensor()]))
    return DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=workers)


def epoch(
    method: str,
    student: nn.Module,
    teacher: nn.Module | None,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 10,
    batch_size: int = 128,
    device: str = "cuda",
    pad: int = 4,
    flip: bool = True,
    workers: int = 2,
    lr: float = 0.1,
) -> Iterator[float]:
    """Yields loss.item() after each step of one epoch, with a fresh SGD and attack steps of 2/255.

    The teacher is put in eval mode; its parameters keep their requires_grad (the published scripts leave it on).
    Args: images uint8 `[N, C, H, W]`; labels `[N]`; eps on the scale of [0, 1].
    """
    student.to(device)
    if teacher is not None:
        teacher.to(device).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=2e-4)
    for x, y in loader(images, labels, batch_size=batch_size, pad=pad, flip=flip, workers=workers):
        yield step(method, student, teacher, x.to(device), y.to(device), optimizer, eps=eps, steps=steps)
