"""`robustdistill plugins new`: a package for a method of one's own, written from the templates in this folder."""

import importlib.util
import keyword
import re
import shutil
from importlib.resources import files
from pathlib import Path
from string import Template

from robustdistill.errors import UserError
from robustdistill.registry import default_registry
from robustdistill.store.atomic import partial, publish

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TEMPLATES = {  # template: the file that it becomes
    "pyproject.toml.in": "pyproject.toml",
    "module.py.in": "$module.py",
    "test.py.in": "test_$function.py",
    "README.md.in": "README.md",
}
TAKEN = frozenset({"hookimpl", "kl", "robustdistill", "register"})  # names that the module itself uses


def write(name: str, out: Path | None = None) -> Path:
    """Writes the package of the method `name` into the new folder `out` and returns that: whole, or nothing.

    UserError for a name that is no name or is taken, and for a folder that holds something.
    """
    check_name(name)
    folder = out or Path(f"robustdistill-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not an empty folder; choose another one with --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    prepared = partial(folder.absolute())
    try:
        prepared.mkdir()
        for path, text in package(name).items():
            (prepared / path).write_text(text, encoding="utf-8")
        publish(prepared, folder.absolute())
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
    return folder


def package(name: str) -> dict[str, str]:
    """The files of the package of the method `name`, by path."""
    words = {"name": name, "function": name.replace("-", "_"), "module": f"robustdistill_{name.replace('-', '_')}"}
    read = files(__name__).joinpath
    return {
        Template(path).substitute(words): Template(read(template).read_text(encoding="utf-8")).substitute(words)
        for template, path in TEMPLATES.items()
    }


def check_name(name: str) -> None:
    """UserError unless a new method can have this name."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a method; write lower-case words joined by hyphens: my-method")
    registry = default_registry()
    for kind in ("method", "outer"):
        if name in registry.names(kind):
            origin = registry.entry(kind, name).origin
            raise UserError(f"there is a {kind} {name!r} already, of {origin}; take another name")
    function = name.replace("-", "_")
    if keyword.iskeyword(function) or function in TAKEN:
        raise UserError(f"{name!r} cannot name a function in the module; take another name, such as my-{name}")
    if importlib.util.find_spec(f"robustdistill_{function}"):
        raise UserError(f"a module robustdistill_{function} is installed already; take another name")
