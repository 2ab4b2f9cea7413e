"""Randomness by name: a seed is a hash of what the draw is for, never of when or where it happens."""

import hashlib
import json

import torch


def key(*parts: int | str) -> int:
    """A 63-bit seed from `parts`, the same on every machine: BLAKE2b of their JSON list, top bit dropped.

    `key(seed, "attack", epoch, step)` and `key(seed, "crop", epoch)` are unrelated, whatever the numbers.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator on `device`, seeded with `key(*parts)`."""
    return torch.Generator(device).manual_seed(key(*parts))
