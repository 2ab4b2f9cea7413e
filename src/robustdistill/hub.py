"""Networks by timm's names: `timm:NAME`, `hf-hub:USER/REPO`, `local-dir:FOLDER`, with their normalisation inside."""

import pickle
from typing import Any

from torch import nn

from robustdistill.errors import DamagedFile, UserError, suggestion
from robustdistill.normalise import Normalised

TIMM, HUB, FOLDER = "timm:", "hf-hub:", "local-dir:"


def names(text: str) -> bool:
    """Whether `text` names a trained network of timm's; `timm:NAME@FILE` is an architecture and a file."""
    return text.startswith((HUB, FOLDER)) or (text.startswith(TIMM) and "@" not in text)


def networks(pattern: str) -> list[str]:
    """timm's names that fit `pattern`, a glob."""
    import timm

    found: list[str] = timm.list_models(pattern)
    return found


def load(name: str, classes: int) -> nn.Module:
    """The trained network that `name` means, in eval mode: images in [0, 1] -> logits `[B, classes]`.

    timm finds architecture, weights, mean and std (its `pretrained_cfg`), in its cache or on the hub; weights are read
    without executing code. Raises UserError for a name that timm does not know, weights that cannot be had, and
    another number of classes.
    """
    import timm  # here and not above: it takes seconds

    short = name.removeprefix(TIMM)
    try:
        network = timm.create_model(short, pretrained=True)
    except MemoryError:
        raise
    except RuntimeError as error:
        if isinstance(error.__cause__ or error.__context__, pickle.UnpicklingError):
            raise DamagedFile(f"the weights of {name!r} can only be read by running code; nothing was run") from error
        raise UserError(f"timm has no trained {short!r} ({error}){_near(short)}") from error
    except Exception as error:  # a folder or repository may hold anything
        raise UserError(f"the weights of {name!r} cannot be had: {error}; check the name and the network") from error
    if (has := network.num_classes) != classes:
        raise UserError(f"{name!r} tells {has} classes apart and the data has {classes}; name a network of that data")
    config: Any = network.pretrained_cfg
    return Normalised(network, tuple(config["mean"]), tuple(config["std"])).eval()


def _near(short: str) -> str:
    import timm

    return suggestion(short, timm.list_models(pretrained=True))
