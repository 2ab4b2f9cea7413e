"""What a pickle's program asks for, found by following it with dummies in the place of everything that it names."""

import contextlib
import pickle
from collections.abc import Iterator
from typing import IO, Any, ClassVar

LONGEST = 80  # characters of a name


def named(stream: IO[bytes]) -> list[str]:
    """The functions and classes that the pickle at the head of `stream` asks for. Nothing of it is run or imported.

    Of a pickle that is cut or garbled, those that come before the fault.
    """
    names = _Names(stream)
    with contextlib.suppress(Exception):
        names.load()
    return names.found


class _Inert:
    """A dummy: it can be called, filled, changed and looped over, and does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __str__(self) -> str:
        return "?"

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def _nothing(self, *_: object, **__: object) -> Any:
        return self

    __call__ = __setitem__ = __setstate__ = append = extend = add = _nothing


class _Names(pickle._Unpickler):
    """Goes on wherever the real one might, so that no call whose result it cannot know hides what comes after it.

    Python's own unpickler and not the C one, which sets memory aside for as many values as a forged number says.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.found: list[str] = []
        self.stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        self.found.append("".join(c if c.isprintable() else "?" for c in f"{module}.{name}")[:LONGEST])
        return _Inert()

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()  # old files of torch keep classes there

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()  # either may be the result of a call
        self.stack.append(self.find_class(str(module), str(name)))

    def _new_object(self) -> None:
        self.stack[-2:] = [_Inert()]

    def _new_object_ex(self) -> None:
        self.stack[-3:] = [_Inert()]

    dispatch[pickle.STACK_GLOBAL[0]] = _stack_global
    dispatch[pickle.NEWOBJ[0]] = _new_object
    dispatch[pickle.NEWOBJ_EX[0]] = _new_object_ex
