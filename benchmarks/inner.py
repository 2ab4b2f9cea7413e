"""Where each inner objective drives x': the value of Eq. 3 that it reaches, and who is still right there.

    python benchmarks/inner.py RUN                                           # a run's student and its teacher
    python benchmarks/inner.py RUN --teacher rn-18@FILE --data cifar10 --data-dir DIR --n 256
    python benchmarks/inner.py rn-18@FILE --teacher wrn-34-10@FILE --data cifar10 --data-dir DIR --n 256

Test images, the training attack (10 steps of eps/4 from a Gaussian start of 0.001), both networks in eval mode. MMARD's
inner problem (Eq. 3) is max KL(S(x'), T(x')): its own objective should reach the highest value, and the paper draws it
as the one whose x' keep to the teacher's side of its boundary.
"""

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustdistill import assemble
from robustdistill.data.keys import generator
from robustdistill.engine.execution import freeze, pick_device
from robustdistill.logits import Logits, Networks
from robustdistill.losses import kl
from robustdistill.quantities import parse_number
from robustdistill.registry import Registry, default_registry
from robustdistill.report.tables import Table, markdown
from robustdistill.run import stored_spec
from robustdistill.targets import Target, find_target

INNERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "x itself": ("none", {}),
    "CE(S(x'), y): SAT, ARD, IAD, MTARD": ("ce", {}),
    "KL(S(x'), S(x)): TRADES": ("kl-student", {}),
    "KL(S(x'), T(x)): RSLAD": ("kl-teacher", {}),
    "KL(S(x'), T(x')), T(x') detached": ("kl-teacher-adv", {"teacher_grad": "detach"}),
    "KL(S(x'), T(x')): MMARD": ("kl-teacher-adv", {}),
}
TRAINING = {"steps": 10, "step": "eps/4", "start": "gaussian", "start_size": 0.001}


class At(NamedTuple):
    """What holds at the x' of one inner objective, image by image: KL(S(x'), T(x')) in nats, who is right."""

    eq3: Tensor
    student: Tensor
    teacher: Tensor

    def cells(self) -> tuple[str, ...]:
        """Means: nats, then percentages."""
        both = self.student & self.teacher
        fooled = self.teacher & ~self.student
        right = (self.student, self.teacher, both, fooled)
        return (f"{float(self.eq3.mean()):.4f}", *(f"{100 * float(part.float().mean()):.1f}" for part in right))


def reached(networks: Networks, x: Tensor, y: Tensor, name: str, eps: float, registry: Registry) -> At:
    """Ascends the inner objective `name` of INNERS from x and looks at both networks where it ends."""
    inner, params = INNERS[name]
    z = Logits(x, y, networks)
    if inner != "none":
        run = registry.build("attack", "pgd", TRAINING)
        draws = generator(0, "inner", device=x.device)
        z = z.at(run(z, registry.build("inner", inner, params), eps=eps, generator=draws))
    with torch.no_grad():
        s, t = z.s_adv.detach(), z.t_adv.detach()
        return At(kl(s, t), s.argmax(1) == y, t.argmax(1) == y)


def teacher_of(target: Target, given: str | None, registry: Registry) -> nn.Module:
    """The teacher by name or file, by default the one that the run learned from."""
    if given is None:
        assert target.store is not None, "a student that is no run needs --teacher"
        node = stored_spec(target.store).teachers["robust"]
        return assemble.build_teacher(node, registry.get("dataset", target.data), registry, target.data)
    return find_target(given, registry, target.data, None).network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", help="a run, or a file of weights")
    for flag in ("--teacher", "--data", "--data-dir", "--eps"):
        parser.add_argument(flag)
    parser.add_argument("--n", type=int)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()

    registry, device = default_registry(), pick_device(asked.device)
    target = find_target(asked.student, registry, asked.data, asked.data_dir)
    networks = [freeze(n).to(device) for n in (target.network, teacher_of(target, asked.teacher, registry))]
    pair = Networks(student=networks[0], teachers={"robust": networks[1]})
    dataset = registry.get("dataset", target.data)
    test = assemble.load_data(dataset, target.data, target.directory).test
    eps = float(parse_number(asked.eps or target.eps or dataset.eps))
    x, y = test.images[: asked.n].to(device).float() / 255, test.labels[: asked.n].to(device)

    rows = []
    for name in INNERS:
        parts = zip(x.split(asked.batch_size), y.split(asked.batch_size), strict=True)
        found = [reached(pair, *part, name, eps, registry) for part in parts]
        rows.append((name, *At(*map(torch.cat, zip(*found, strict=True))).cells()))
    columns = ("x' made by", "KL(S(x'), T(x'))", "S right", "T right", "both right", "T right, S wrong")
    print(f"{len(x)} test images of {target.data}, eps {eps:.4g}; nats, and % of the images\n")
    print(markdown(Table(columns, tuple(rows))), end="")


if __name__ == "__main__":
    main()
