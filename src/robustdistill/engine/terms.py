"""How large each term of the outer loss is, and how hard it pulls: measured without touching the run."""

import torch
from torch import Generator, Tensor, nn

from robustdistill.engine.step import MinMax, adversary
from robustdistill.logits import Logits
from robustdistill.modes import untouched
from robustdistill.types import gradients


def term_sizes(
    game: MinMax, student: nn.Module, z: Logits, generator: Generator | None
) -> tuple[dict[str, float], dict[str, float]]:
    """(mean value of each noted term, norm of its parameter gradient over that of the first term).

    For MMARD the second is `trd`: how much of the student's gradient is TRD's, relative to the KL's. It
    costs one more step of attack and forwards, takes no update, and synchronises; call it once an epoch.
    """
    with untouched(student, game.units):
        x_adv = adversary(game, student, z, generator)
        student.train()
        learning = z.update(x_adv)
        game.outer(learning)
        weights = [p for p in student.parameters() if p.requires_grad]
        means = {name: z.mean(term) for name, term in learning.terms.items()}
        values = {name: float(mean.detach()) for name, mean in means.items()}
        norms = {name: float(_norm(mean, weights)) for name, mean in means.items()}
    first = next(iter(norms.values()), 0.0)
    return values, {name: norm / first if first else 0.0 for name, norm in norms.items()}


def _norm(value: Tensor, weights: list[nn.Parameter]) -> Tensor:
    norms = [torch.linalg.vector_norm(g) for g in gradients(value, weights, retain_graph=True)]
    return torch.stack([value.new_zeros(()), *norms]).square().sum().sqrt()
