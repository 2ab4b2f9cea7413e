"""Python, torch, the packages that they go with, and plugins."""

import importlib
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from robustdistill.doctor.finding import Asked, Finding, fails, note, ok
from robustdistill.errors import PluginError, first_line

if TYPE_CHECKING:  # any of these may be what is missing here: functions import what they use
    from packaging.requirements import Requirement

    from robustdistill.plugins import Plugin
    from robustdistill.registry import Registry

PACKAGE = "robustdistill"
# What a default training does not import.
LATER = frozenset(
    {"torchvision", "timm", "pyautoattack", "pyarrow", "huggingface-hub", "matplotlib", "jinja2", "packaging"}
)


def python(_: Asked) -> Finding:
    """Python's version, against what the package asks for."""
    from packaging.specifiers import SpecifierSet

    have, want = platform.python_version(), metadata.metadata(PACKAGE)["Requires-Python"]
    if SpecifierSet(want).contains(have, prereleases=True):
        return ok("python", f"{have}, {platform.platform()}")
    return fails("python", f"{have}, and {want} is needed", "make a virtual environment of a newer Python")


def torch(_: Asked) -> Finding:
    """Whether torch can be imported, and its version and build."""
    (want,) = (r for r in requirements() if r.name == "torch")
    try:
        library = importlib.import_module("torch")
    except Exception as error:  # a library of the system that is missing, half an installation, ...
        return fails("torch", f"cannot be imported: {first_line(error)}", f"install it again: pip install '{want}'")
    build = f"built for CUDA {library.version.cuda}" if library.version.cuda else "built for the CPU alone"
    if _fits(want, str(library.__version__)):
        return ok("torch", f"{library.__version__}, {build}")
    return fails("torch", f"{library.__version__}, and {want} is needed", f"pip install --upgrade '{want}'")


def torchvision(_: Asked) -> Finding:
    """Whether torchvision can be imported: one that was built for another torch cannot. Downloads need it."""
    try:
        library = importlib.import_module("torchvision")
    except Exception as error:
        advice = "install the two that belong together: pip install --upgrade torch torchvision"
        return fails("torchvision", f"cannot be imported: {first_line(error)}", advice, needed=False)
    return ok("torchvision", f"{library.__version__}, fits this torch")


def packages(_: Asked) -> Finding:
    """Every distribution that ours requires, by version."""
    wanted = requirements()
    have = {r.name: installed(r.name) for r in wanted}
    wrong = [r for r in wanted if not _fits(r, have[r.name])]
    if not wrong:
        return ok("packages", ", ".join(f"{name} {version}" for name, version in have.items()))
    told = (f"{r.name} is {have[r.name] or 'not installed'}, and {r} is needed" for r in wrong)
    needed = any(r.name not in LATER for r in wrong)
    return fails("packages", "; ".join(told), " ".join(["pip install", *(f"'{r}'" for r in wrong)]), needed=needed)


def requirements() -> "list[Requirement]":
    """What our own distribution asks for; not what only its extras, such as `dev`, do."""
    from packaging.requirements import Requirement

    parsed = map(Requirement, metadata.requires(PACKAGE) or ())
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def installed(package: str) -> str | None:
    """The version of a distribution, None when it is not installed. It is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _fits(wanted: "Requirement", version: str | None) -> bool:
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def plugins(asked: Asked) -> list[Finding]:
    """The built-in plugins together, then every other one, then names that clash."""
    from robustdistill.plugins import load_plugins
    from robustdistill.registry import KINDS, Registry

    found = load_plugins()
    others = [p for p in found if not p.built_in]
    registry = Registry(found)
    clashes = dict.fromkeys(registry.clash(kind, name) for kind in KINDS for name in registry.names(kind))
    return [
        ok("plugins", f"{len(found) - len(others)} built in, {len(others)} others"),
        *map(_plugin, others),
        *(_clash(sentence, registry, asked) for sentence in clashes if sentence),
    ]


def _plugin(plugin: "Plugin") -> Finding:
    name = f"plugin {plugin.name}"
    if plugin.error:
        told = f"{plugin.distribution} {plugin.version} does not load: {plugin.reason}"
        advice = f"{plugin.mend}; `robustdistill plugins list` shows where, ROBUSTDISTILL_PLUGINS leaves it out"
        return fails(name, told, advice, needed=False)
    told = ", ".join(_provided(plugin))
    if not told:
        return note(name, f"{plugin.origin} provides nothing", "see whether its hooks are marked @hookimpl")
    return ok(name, f"{plugin.distribution} {plugin.version} works: {told}")


def _clash(sentence: str, registry: "Registry", asked: Asked) -> Finding:
    """Needed where a default training asks for the name."""
    from robustdistill.resolve import resolve

    told, _, advice = sentence.partition("; ")
    try:
        resolve([{"data": asked.data} if asked.data else {}], registry)
    except PluginError as error:
        return fails("names", told, advice, needed=str(error) == sentence)
    return fails("names", told, advice, needed=False)


def _provided(plugin: "Plugin") -> Iterator[str]:
    for hook, units in plugin.provides.items():
        yield f"{hook.removeprefix('register_').replace('_', ' ')} {', '.join(units)}"
