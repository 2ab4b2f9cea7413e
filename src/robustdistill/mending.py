"""What is wrong with a plugin, told to whoever must mend it: the reason in a line, where, and what to do."""

import importlib.metadata
import traceback
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from types import TracebackType

import pluggy

HEAD = "Traceback (most recent call last):\n"
# Files whose frames carry a plugin's and are not of it.
CARRIERS = tuple(Path(file).parent for file in (__file__, pluggy.__file__, importlib.__file__))


class Misfit(TypeError):
    """A plugin that loads and is not what it should be. `mend` says what to do, `function` is the one to be mended."""

    def __init__(self, sentence: str, mend: str, function: object = None) -> None:
        super().__init__(sentence)
        self.mend, self.function = mend, function


class WrongVersion(Misfit):
    """A plugin that was made for another version of this package."""


def check_version(dist: Distribution | None, project: str, version: str) -> None:
    """WrongVersion unless what `dist` requires of `project` is met by `version`; nothing of the plugin is imported."""
    if dist is None or not dist.requires:
        return
    from packaging.requirements import InvalidRequirement, Requirement  # some 10 ms, spent where there are plugins
    from packaging.utils import canonicalize_name

    for text in dist.requires:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        fits = wanted.specifier.contains(version, prereleases=True)
        if canonicalize_name(wanted.name) == project and applies and not fits:
            raise WrongVersion(
                f"{dist.name} {dist.version} needs {project} {wanted.specifier}, and this is {version}",
                f"pip install '{project}{wanted.specifier}', or another {dist.name}: pip install -U {dist.name}",
            )


def reason(error: BaseException) -> str:
    """An exception in a line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Misfit) else f"{type(error).__name__}: {text}".removesuffix(": ")


def told(error: BaseException) -> str:
    """Its traceback, of the plugin's own code alone: none of ours, nor of the import."""
    theirs = _theirs(error)
    if theirs and not isinstance(error, Misfit):
        return "".join(traceback.format_exception(type(error), error, theirs[0]))
    place, said = _place(error), traceback.format_exception_only(error)
    return "".join([HEAD, *place, *said] if place or isinstance(error, SyntaxError) else said)


def _place(error: BaseException) -> list[str]:
    """Where the function stands that is to be mended."""
    code = getattr(getattr(error, "function", None), "__code__", None)
    if code is None:
        return []
    return traceback.format_list([traceback.FrameSummary(code.co_filename, code.co_firstlineno, code.co_name)])


def mend(error: BaseException, entry: EntryPoint) -> str:
    """What to do, in a sentence."""
    name = entry.dist.name if entry.dist else "its distribution"
    if isinstance(error, Misfit):
        return error.mend
    if isinstance(error, ImportError) and error.name:
        return _import(error.name, entry, name)
    if isinstance(error, SyntaxError) and error.filename:
        return f"correct {error.filename}, line {error.lineno}"
    if theirs := _theirs(error):
        last = theirs[-1]
        return f"mend {last.tb_frame.f_code.co_filename}, line {last.tb_lineno}, or pip uninstall {name}"
    return f"correct the entry point {entry.name} = {entry.value!r} in its pyproject.toml, and install it again"


def _import(missing: str, entry: EntryPoint, name: str) -> str:
    if missing == entry.module or entry.module.startswith(f"{missing}."):
        return f"its own module is gone: pip install --force-reinstall {name}, or pip uninstall {name}"
    outermost = missing.partition(".")[0]
    if outermost == __name__.partition(".")[0]:
        return f"it was made for another {outermost}: pip install -U {name}"
    return f"install what it imports: pip install {outermost}, or pip uninstall {name}"


def _theirs(error: BaseException) -> list[TracebackType]:
    """The traceback's entries that are the plugin's own, or those of what it calls."""
    entries, place = [], error.__traceback__
    while place is not None:
        file = place.tb_frame.f_code.co_filename
        if not file.startswith("<frozen ") and not any(Path(file).is_relative_to(folder) for folder in CARRIERS):
            entries.append(place)
        place = place.tb_next
    return entries
