"""What `eval` does: find the network and the images, run the attacks, keep the verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustdistill import assemble, hub
from robustdistill.engine.execution import pick_device
from robustdistill.errors import UserError
from robustdistill.evaluation import suite
from robustdistill.evaluation.verdict import Verdict
from robustdistill.registry import Registry, default_registry
from robustdistill.run import is_checkpoint, load, run_of, stored_spec
from robustdistill.spec import Node, parse_number
from robustdistill.store import rundir
from robustdistill.store.atomic import write_atomic
from robustdistill.store.plain import dumps
from robustdistill.types import Attack, Dataset, Split

DEFAULT_ATTACKS = ("clean", "fgsm", "pgd", "pgd-trades", "cw")
DEFAULT_DATA = "digits"


@dataclass(frozen=True)
class Target:
    """What is judged: a network, the data that it was made for, and the run that it came from, if any."""

    network: nn.Module
    name: str
    data: str
    directory: str | None
    eps: float | None
    seed: int = 0
    store: rundir.RunDir | None = None


def evaluate(
    model: nn.Module | str | Path,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    data: str | None = None,
    data_dir: str | Path | None = None,
    n: int | None = None,
    eps: float | str | None = None,
    seed: int | None = None,
    batch_size: int = 250,
    device: str = "auto",
    registry: Registry | None = None,
) -> Iterator[Verdict]:
    """Judges a network under each attack by name, then under all of them together (`worst`).

    `model`: a module, a run directory, a checkpoint, a teacher's name, a file of weights, ARCH@FILE, or a
    name of timm's (`timm:NAME`, `hf-hub:USER/REPO`, `local-dir:FOLDER`).
    `images` (uint8, or float in [0, 1]) with `labels`, or else the test images of `data`, `n` at most. A module
    needs `data`, or images, labels and `eps`; it comes back as and where it was. `eps` is the L-inf radius in
    [0, 1] ("8/255" works), by default that of the run or of the data set. `batch_size` images go through the network
    at once, fewer when memory runs out.
    Raises UserError for what cannot be judged. Iterate to drive it: one `Verdict` an attack.
    """
    registry = registry or default_registry()
    if isinstance(model, nn.Module) and data is None and (images is None or eps is None):
        raise UserError("a module does not say what it is for: give data=NAME, or images, labels and eps")
    target = find_target(model, registry, data, data_dir)
    dataset: Dataset = registry.get("dataset", target.data)
    chosen = chosen_attacks(attacks, registry)
    x, y = _images(images, labels, dataset, target, n)
    radius = _radius(eps if eps is not None else target.eps or dataset.eps)
    where = pick_device(device)
    make = assemble.judging_generator(target.seed if seed is None else seed, where, registry)
    home = next((p.device for p in target.network.parameters()), where)
    try:
        network = target.network.to(where)
        yield from suite.evaluate_all(network, x, y, chosen, eps=radius, generator=make, at_once=batch_size)
    finally:
        target.network.to(home)


def chosen_attacks(names: Sequence[str], registry: Registry) -> dict[str, Attack]:
    """The attacks by name with their parameters complete; `clean` comes first."""
    ordered = ["clean", *(n for n in dict.fromkeys(names) if n != "clean")]
    attacks = {name: registry.get("attack", name) for name in ordered}
    return {name: replace(a, params=registry.params("attack", name, {}, name)) for name, a in attacks.items()}


def find_target(
    model: nn.Module | str | Path, registry: Registry, data: str | None, data_dir: str | Path | None
) -> Target:
    """What `model` means (see `evaluate`)."""
    directory = str(data_dir) if data_dir is not None else None
    if isinstance(model, nn.Module):
        return Target(model, type(model).__name__, data or DEFAULT_DATA, directory, None)
    path = Path(model)
    if (path / rundir.SPEC).exists() or is_checkpoint(path):
        return _run_target(path, registry, data, directory)
    known = registry.units("teacher").get(str(model).partition("@")[0])
    name = data or (known.dataset if known else DEFAULT_DATA)
    dataset = registry.get("dataset", name)
    if hub.names(str(model)):
        network = hub.load(str(model), len(dataset.classes))
    else:
        network = assemble.build_teacher(Node(name=str(model)), dataset, registry, name)
    return Target(network, str(model), name, directory, None)


def _run_target(path: Path, registry: Registry, data: str | None, directory: str | None) -> Target:
    store = run_of(path)
    spec = stored_spec(store)
    network = load(path, registry=registry)
    same = data in (None, spec.data.name)
    return Target(
        network,
        store.name,
        data or spec.data.name,
        directory or (spec.data.dir if same else None),
        spec.eps if same else None,
        spec.seed,
        store,
    )


def _images(
    images: Tensor | None, labels: Tensor | None, dataset: Dataset, target: Target, n: int | None
) -> tuple[Tensor, Tensor]:
    if (images is None) != (labels is None):
        raise UserError("images and labels come together: give both, or neither for the data set's test images")
    if images is None or labels is None:
        split: Split = assemble.load_data(dataset, target.data, target.directory).test
        images, labels = split.images, split.labels
    return images[:n], labels[:n]


def _radius(eps: float | str) -> float:
    try:
        value = float(parse_number(eps))
    except ValueError:
        raise UserError(f"eps {eps!r} is no number; write 0.03 or 8/255") from None
    if not 0 <= value < 1:
        raise UserError(f"eps {value:g} is no radius for pixels in [0, 1]; did you mean {value:g}/255?")
    return value


def keep(store: rundir.RunDir, verdicts: Sequence[Verdict], facts: Mapping[str, Any]) -> Path:
    """Writes `evaluation.json` into a run directory: every verdict, example by example."""
    path = store.path / rundir.EVALUATION
    write_atomic(path, dumps({**facts, "verdicts": [v.plain() for v in verdicts]}))
    return path
