"""BatchNorm over the batch of all processes: on any backend, and differentiable as often as its gradients are."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustdistill.errors import UserError
from robustdistill.world import current

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncBatchNorm(_BatchNorm):
    """In train mode mean and variance are those of every process' images, in eval mode nothing is said.

        m = sum_r n_r m_r / N,   v = sum_r n_r (v_r + (m_r - m)^2) / N,   y = weight (x - m) / sqrt(v + eps) + bias

    with m_r, v_r those of the n_r numbers that process r has of a channel: one all-reduce each way. torch's own layer
    needs a GPU and has no second derivative.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Any shape `[B, C, ...]`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, ...]`, in the number format of x."""
        local = not self.training and self.running_mean is not None
        return super().forward(x) if local or current().size == 1 else self._of_all(x)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _of_all(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        n, mean, var = _moments(wide)
        self._track(n, mean.detach(), var.detach())
        shape = [1, -1] + [1] * (x.dim() - 2)
        out = (wide - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, n: Tensor, mean: Tensor, var: Tensor) -> None:
        if not self.training or self.running_mean is None:
            return
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate: Any = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        for kept, new in ((self.running_mean, mean), (self.running_var, var * n / (n - 1).clamp(min=1))):
            kept.copy_(kept * (1 - rate) + new * rate)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(count, mean, biased variance) of each channel of x `[B, C, ...]` over all processes."""
    here = current()
    axes = [0, *range(2, x.dim())]
    own = torch.stack([x.new_full((x.shape[1],), x.numel() / x.shape[1]), x.mean(axes), x.var(axes, correction=0)])
    mine = torch.arange(here.size, device=x.device).eq(here.rank).to(x)
    n, means, variances = here.total(mine[:, None, None] * own).unbind(1)  # each `[processes, C]`
    total = n.sum(0)
    mean = (n * means).sum(0) / total
    return total, mean, (n * (variances + (means - mean).square())).sum(0) / total


def synchronised(student: nn.Module) -> nn.Module:
    """The student itself, whose BatchNorm layers speak to the other processes from now on: the same objects under the
    same names, of the class `SyncBatchNorm`. UserError for one that is computed in a way of its own.
    """
    for name, part in student.named_modules():
        if isinstance(part, _BatchNorm) and type(part) not in (*PLAIN, SyncBatchNorm):
            raise UserError(f"sync_bn = true: the student's layer {name} is a {type(part).__name__}; leave sync_bn out")
        if type(part) in PLAIN:
            part.__class__ = SyncBatchNorm
    return student
