"""The unit of work that is kept: one attack on one logical batch. What is done is not done again."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

ENGINE_VERSION = "2"
"""Changes with whatever changes a verdict; results kept under another version are not found."""


def unit_key(attack: str, params: Mapping[str, Any], ids: Tensor, *, eps: float, seed: int, fingerprint: str) -> str:
    """A name for one unit that nothing else has: attack, parameters, images, radius, seed, engine, model and data.

    ids `[n]`: the standing images that make up the logical batch, by their place among all.
    """
    facts = [ENGINE_VERSION, fingerprint, attack, dict(params), float(eps), seed, ids.tolist()]
    return f"{attack}-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}"
