"""Weights: read from anyone's file, recognised, loaded with sentences instead of tracebacks, and saved."""

import hashlib
import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from robustdistill.errors import DamagedFile, UserError
from robustdistill.store.formats import load_objects, printable, room, too_large
from robustdistill.types import Model, Weights

WRAPPERS = ("state_dict", "net", "model", "model_state_dict", "rmodel")
PREFIXES = ("module.", "model.", "_orig_mod.", "0.")  # 0: a sequence of one network, as in DM-Improves-AT's files
DEEPEST = 8  # wrappers within each other
V = TypeVar("V")
NORMALISATION = re.compile(r"(0\.)?(mu|sigma|mean|std)|normalize\..*")
SECOND = "1."  # of a sequence: what stands before it may normalise


def read_weights(path: Path) -> Weights:
    """The tensors of anyone's safetensors or PyTorch file by name, on the CPU; nothing in it is executed.

    Floating-point values below 32 bits are upcast to float32. Where a checkpoint wraps its state dict
    (`state_dict`, `net`, `model`, ...), that one is taken; prefixes that wrappers put before every name
    (`module.`, `model.`, `_orig_mod.`) are stripped, and buffers of an input normalisation (mu, sigma,
    mean, std, normalize.*) are dropped where all of them together change nothing.

    Raises UserError if the file cannot be opened; DamagedFile if it is empty, a web page, truncated, not
    readable without running code, or holds no tensors or values that are not finite.
    """
    content = unwrap(load_objects(path))
    try:
        tensors = _tensors(content, path)
    except (RuntimeError, TypeError) as error:  # of a kind that has no plain values: quantised, of four bits, ...
        raise DamagedFile(f"{path} holds tensors that are no plain numbers ({error}); save it as float32") from error
    weights = _plain_names(tensors)
    if not weights:
        raise DamagedFile(f"{path} holds no weights (found: {contents(content)}); a state dict was expected")
    for name, value in weights.items():
        if not value.isfinite().all():
            raise DamagedFile(
                f"{path} is damaged or from a run that diverged: {printable(name)} holds values that are not finite; "
                "use another checkpoint"
            )
    return weights | _normalisation(tensors)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, each in its own precision and under its own name."""
    path.write_bytes(as_bytes(weights))


def as_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Tensors as the content of a safetensors file, each in its own precision and under its own name."""
    # Cloned because the format refuses tensors that share memory.
    plain = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in weights.items()}
    content: bytes = serialise(plain, metadata={"format": "pt"})
    return content


def digest(weights: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors that come from no file of their own: names, shapes and values decide it."""
    return hashlib.sha256(as_bytes(weights)).hexdigest()


def load_into(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copies `weights` into `module`, every one of them, keeping the module's precision and device.

    `sub_block1.*`, which TRADES' Wide ResNet holds and never runs, is dropped where the module has none.
    The module's own values stay where the weights have no BatchNorm step counters or, if the module
    normalises its input, no buffers for that. Raises UserError if anything else is missing, left over or
    of another shape. `what` begins the sentence: "teacher wrn.pt".
    """
    own = module.state_dict()
    names = _plain_names({k: k for k in own})  # by the names that `read_weights` would give them
    inside = {_plain(k): k for k in own if NORMALISATION.fullmatch(_plain(k))}
    known = inside | names
    weights = {known.get(k, k): v for k, v in weights.items() if k in known or not k.startswith("sub_block1.")}
    missing = [k for k in names.values() if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own]
    if lost := [k for k in unexpected if NORMALISATION.fullmatch(k)]:
        values = ", ".join(f"{k} = {weights[k].flatten().tolist()[:3]}" for k in lost)
        raise UserError(
            f"{what} normalises its input ({values}), which this "
            "architecture does not; wrap it in a module that does, and name that: pkg.mod:factory@FILE"
        )
    if missing or unexpected:
        raise UserError(
            f"{what} does not fit the architecture: missing {_some(missing)}; unexpected {_some(unexpected)}. "
            "Name the architecture that the weights were made for: ARCH@FILE"
        )
    differing = [k for k in weights if weights[k].shape != own[k].shape]
    if differing:
        raise UserError(_shape_mismatch(module, own, weights, differing[0], what))
    module.load_state_dict({**own, **weights})


def of_second_part(weights: Weights) -> Weights:
    """Weights of the second part of a sequence by the names within it; any others as they are."""
    second = all(k.startswith(SECOND) for k in weights)
    return {k.removeprefix(SECOND): v for k, v in weights.items()} if second else weights


def recognise(weights: Weights, models: Mapping[str, Model]) -> tuple[str, dict[str, Any]]:
    """Which of `models` the weights belong to: its name and the parameters that the name does not hold.

    A template is filled in: ("wrn-34-10", {"dead_block": False}). Raises UserError if none fits.
    """
    weights = {k: v for k, v in weights.items() if not NORMALISATION.fullmatch(k)}
    for name, model in models.items():
        params = _recognised(model, weights)
        if params is not None:
            fields = {field for _, field, _, _ in string.Formatter().parse(name) if field}
            return name.format(**params), {k: v for k, v in params.items() if k not in fields}
    if weights and all(k.startswith(SECOND) for k in weights):
        raise UserError(
            f"weights named {_some(list(weights))} are of the second part of a sequence; the first holds none and "
            "may normalise. Say what it does: ARCH@FILE with --set teachers.robust.normalisation=cifar10, or none"
        )
    raise UserError(
        f"no known architecture has weights named {_some(list(weights))}. "
        f"Name the architecture: ARCH@FILE, with ARCH one of {', '.join(sorted(models))}, or pkg.mod:factory"
    )


def _recognised(model: Model, weights: Weights) -> Mapping[str, Any] | None:
    try:
        return model.recognise(weights) if model.recognise else None
    except Exception:  # shapes out of which it cannot even be built
        return None


def unwrap(content: object) -> object:
    """The state dict in what a checkpoint holds, however deep it is wrapped; `content` itself if nothing wraps it."""
    for _ in range(DEEPEST):  # a pickle may hold itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _tensors(content: object, path: Path) -> Weights:
    if not isinstance(content, Mapping):
        return {}
    tensors = {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise DamagedFile(f"{path} holds {printable(name)}, which is no dense tensor of real numbers; save it so")
    # Strides of 0 lay one number out as any number of them.
    if (size := sum(max(4, v.itemsize) * v.numel() for v in tensors.values())) > room(path):
        raise too_large(path, size)
    return {k: v.float() if v.is_floating_point() and v.itemsize < 4 else v for k, v in tensors.items()}


def _plain_names(named: Mapping[str, V]) -> dict[str, V]:
    while True:
        first = any(k.startswith("0.") for k in named)
        named = {k: v for k, v in named.items() if not NORMALISATION.fullmatch(k)}
        prefixes = (*PREFIXES, SECOND) if first else PREFIXES  # of a sequence whose first part holds something
        prefix = next((p for p in prefixes if named and all(k.startswith(p) for k in named)), None)
        if prefix is None:
            return named
        named = {k.removeprefix(prefix): v for k, v in named.items()}


def _normalisation(tensors: Weights) -> Weights:
    """The buffers of an input normalisation by their plain names; none if together they change nothing."""
    named = {_plain(k): v for k, v in tensors.items()}
    found = {k: v for k, v in named.items() if NORMALISATION.fullmatch(k) and v.is_floating_point()}
    neutral = {k: float(k.rpartition(".")[2] not in ("mu", "mean")) for k in found}
    return {} if all(bool((v == neutral[k]).all()) for k, v in found.items()) else found


def _plain(name: str) -> str:
    """The name of a normalisation's buffer without what wrappers put before it."""
    return re.sub(rf"^({'|'.join(map(re.escape, PREFIXES))})+", "", name)


def _shape_mismatch(
    module: nn.Module, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], first: str, what: str
) -> str:
    modules = list(module.named_modules())
    head = next((f"{k}.weight" for k, m in reversed(modules) if isinstance(m, nn.Linear)), first)
    stem = next((f"{k}.weight" for k, m in modules if isinstance(m, nn.Conv2d)), first)
    if weights[head].ndim == 2 and weights[head].shape[0] != own[head].shape[0]:
        return f"{what} has {weights[head].shape[0]} classes, the run's data has {own[head].shape[0]}"
    if weights[stem].ndim == 4 and weights[stem].shape[1] != own[stem].shape[1]:
        takes, has = weights[stem].shape[1], own[stem].shape[1]
        told = f"{what} takes images of {takes} channels, the run's data has {has}"
        return f"{told}: name the data set that it is for, --data NAME (without it, that is digits)"
    sizes = f"{list(weights[first].shape)} in the weights, {list(own[first].shape)} in the architecture"
    return f"{what} does not fit the architecture: {first} is {sizes}. Name the one they were made for: ARCH@FILE"


def contents(content: object) -> str:
    """What a checkpoint holds, in a few words."""
    return _some([str(k) for k in content]) if isinstance(content, Mapping) else f"a {type(content).__name__}"


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    rest = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return (", ".join(map(printable, shown[:4])) or "nothing") + rest
