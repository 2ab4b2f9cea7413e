"""A step recorded once and replayed without Python: as a CUDA graph.

A recording freezes everything that is not on the device: Python values, which tensors are read and written.
What may change between replays changes in place: the picks of a batch, the clock, the learning rate, the seeds of
the generators, and the state of every module.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class Recording:
    """`out` is what the recorded function returned; each `replay()` does all its work again and fills `out` anew."""

    out: Tensor
    replay: Callable[[], None]


class Recorder(Protocol):
    """Records functions. `record` has also done the function's work once when it returns."""

    def warm(self) -> AbstractContextManager[None]:
        """Where the function runs for real before it is recorded."""

    def record(self, function: Callable[[], Tensor], generators: Sequence[Generator]) -> Recording:
        """Raises whatever recording raises; the function's work is then not done."""


class CudaGraphs:
    """Records CUDA graphs on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def warm(self) -> Iterator[None]:
        """The stream that recording uses: what autograd and libraries set up there is ready when it begins."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)

    def record(self, function: Callable[[], Tensor], generators: Sequence[Generator]) -> Recording:
        """`generators`: those that the function draws from, besides the device's own. They may be reseeded between
        replays, which then draw what the function would.
        """
        graph, raised = torch.cuda.CUDAGraph(), list[Exception]()
        with torch.cuda.device(self._device), self._recovered():
            for generator in generators:
                graph.register_generator_state(generator)
            try:
                with torch.cuda.graph(graph, stream=self._stream), _noted(raised):
                    out = function()
            except Exception as error:  # that of ending the recording, where something in it has failed before
                raised.append(error)
            _raise_first(raised)
        graph.replay()
        return Recording(out, graph.replay)

    @contextmanager
    def _recovered(self) -> Iterator[None]:
        """A recording that fails leaves its stream as the current one, and torch < 2.13 takes the device's own
        generator for one that is still being recorded, until another recording ends well.
        """
        outside = torch.cuda.current_stream(self._device)
        try:
            yield
        except Exception:
            try:
                with suppress(Exception), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self._stream):
                    torch.zeros(1, device=self._device)
            finally:
                torch.cuda.set_stream(outside)
            raise


@contextmanager
def _noted(raised: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raised.append(error)
        raise


def _raise_first(raised: list[Exception]) -> None:
    """Outside of any handler, and keeping nothing: an error's frames hold the memory of what failed."""
    try:
        if raised:
            raise raised[0]
    finally:
        raised.clear()


def marks(*modules: nn.Module) -> dict[str, Any]:
    """What a recording of `modules` freezes, by name: the memory of every tensor and every plain value."""
    found: dict[str, Any] = {}
    for i, module in enumerate(modules):
        for path, part in module.named_modules(prefix=f"{i}"):
            tensors = {**part._parameters, **part._buffers}
            plain = {k: v for k, v in vars(part).items() if k not in _OF_EVERY_MODULE}
            found |= {f"{path}.{k}": (type(part).__name__, k, _mark(v)) for k, v in {**plain, **tensors}.items()}
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`Class.attribute` for each mark that differs."""
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return ["{}.{}".format(*(after.get(k) or before[k])[:2]) for k in keys]


def first_line(error: Exception) -> str:
    """What stood against a recording, in a line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _mark(value: Any) -> Any:
    if isinstance(value, Tensor):
        return "tensor", value.data_ptr()
    if isinstance(value, Mapping):
        return {k: _mark(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mark(v) for v in value]
    return value if isinstance(value, int | float | str | bytes | None) else id(value)
