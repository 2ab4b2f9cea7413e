"""Programs of torch.export: networks that can be judged, in the one mode that they were made in."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from robustdistill.errors import UserError

# Operation -> the argument that says whether it trains.
AS_TRAINING: dict[Any, int] = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2}
DYNAMIC = 'torch.export.export(..., dynamic_shapes=({0: torch.export.Dim("batch")},))'


def is_exported(network: nn.Module) -> bool:
    """Whether it came of torch.export: it is no copy of a class, and knows no train() and eval()."""
    return isinstance(network, GraphModule) and "train" in vars(network)


def refuse_exported(networks: Mapping[str, object]) -> None:
    """UserError for a network, by what it is to be in a run, that was exported: a run sets modes and formats."""
    for what, network in networks.items():
        if isinstance(network, nn.Module) and is_exported(network):
            raise UserError(f"{what} was made by torch.export, for judging alone; give the module that was exported")


def refuse_unjudged(what: str, network: nn.Module) -> None:
    """UserError for an exported program whose verdict would depend on the batch, or that takes batches of one size."""
    if not is_exported(network):
        return
    assert isinstance(network, GraphModule)
    for node in network.graph.nodes:
        if _trains(node):
            raise UserError(f"{what} was exported in train mode; call .eval() before torch.export.export")
        if node.op == "placeholder" and isinstance(n := _batch(node), int):
            raise UserError(f"{what} was exported for batches of {n} alone; export it by {DYNAMIC}")


def _trains(node: Node) -> bool:
    at = AS_TRAINING.get(node.target) if node.op == "call_function" else None
    return at is not None and len(node.args) > at and node.args[at] is True


def _batch(node: Node) -> object:
    shape: Sequence[object] = getattr(node.meta.get("val"), "shape", ())
    return shape[0] if shape else None
