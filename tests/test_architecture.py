"""Who may import whom, how long things are, what is documented: read off the syntax trees of every file of src."""

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "robustdistill"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES, MAX_FUNCTION = 260, 60

# What each module or folder may import: our own units, then other people's packages. Anything else is an error.
ALLOWED: dict[str, tuple[str, str]] = {
    "errors": ("", ""),
    "events": ("", ""),
    "losses": ("errors", "torch"),
    "logits": ("errors", "torch"),
    "modes": ("", "torch"),
    "collectives": ("errors", "torch"),
    "blame": ("", "torch"),
    "exported": ("errors", "torch"),
    "world": (
        "collectives errors",
        "torch",
    ),  # who computes: below all that shares a batch, a set of images or a folder
    "types": ("logits world", "torch"),
    "wording": ("errors", "pydantic"),
    "quantities": ("errors", "pydantic"),
    "outside": ("", ""),
    "spec": ("errors outside quantities wording", "pydantic tomli_w"),
    "records": ("errors", "pydantic"),
    "hookspecs": ("", "pluggy"),
    "mending": ("", "pluggy packaging"),
    "plugins": ("hookspecs mending types __version__", "pluggy"),
    "hints": ("", ""),
    "registry": ("errors hints hookspecs outside plugins quantities wording", "pydantic"),
    "naming": ("errors registry", ""),
    "resolve": ("errors logits naming quantities registry spec", ""),
    "arithmetic": ("", "torch"),
    "recording": ("", "torch"),
    "engine": ("errors events logits losses modes recording types world", "torch"),
    "evaluation": ("arithmetic errors events logits losses modes recording types world", "torch"),
    "data": ("errors outside types", "torch numpy pyarrow PIL"),
    "store": ("errors events outside types", "torch safetensors numpy"),
    "zoo": ("data errors outside store types", "filelock"),
    "report": ("errors events", "jinja2 matplotlib numpy safetensors"),
    "builtin": (
        "errors hookspecs types logits losses modes normalise data evaluation quantities.absolute_step",
        "torch pydantic pyautoattack timm",
    ),
    "normalise": ("errors types", "torch"),
    "hub": ("errors normalise", "torch timm"),
    "checks": ("errors modes types", "torch"),
    "surroundings": ("arithmetic errors", "torch"),
    "vetting": ("checks data engine errors evaluation logits losses modes naming registry spec types", "torch"),
    "factory": ("errors registry spec", "torch"),
    "located": ("errors naming registry spec store stored types zoo", ""),
    "architectures": ("engine errors factory hub registry spec", "torch"),
    "assemble": (
        "blame checks data engine errors factory hub located logits modes naming normalise registry spec store types",
        "torch",
    ),
    "selection": ("assemble engine evaluation logits registry spec types", "torch"),
    "prepare": (
        "assemble checks data engine errors exported hub located logits modes recording registry resolve selection "
        "spec store surroundings types vetting world",
        "torch",
    ),
    "stored": ("errors spec store", ""),
    "provenance": ("errors prepare store stored world", ""),
    "run": (
        "assemble engine errors events prepare provenance registry resolve saving selection spec store stored "
        "surroundings types world",
        "torch",
    ),
    "saving": ("errors events prepare store types world", ""),
    "targets": ("assemble errors hub located naming registry run spec store stored", "torch"),
    "judging": (
        "__version__ assemble checks engine errors evaluation exported quantities registry surroundings targets types "
        "world",
        "torch",
    ),
    "earlier": ("errors evaluation store", "torch"),
    "noted": ("data earlier evaluation judging store", "safetensors torch"),
    "study": (
        "assemble engine errors events factory hub judging located naming noted outside quantities registry resolve "
        "run spec store stored surroundings targets types wording",
        "torch pydantic tomli_w",
    ),
    "doctor": ("data engine errors plugins registry resolve store", "torch packaging"),
    "testing": (
        "assemble blame checks engine errors events factory located logits losses modes plugins recording registry "
        "resolve run spec store types wording",
        "torch numpy pydantic",
    ),
    "scaffold": ("errors registry store", ""),
    "bench": (
        "assemble data engine errors factory located logits modes prepare registry selection spec store types",
        "torch",
    ),
    "cli": (
        "__version__ architectures bench doctor errors events judging naming noted targets run prepare assemble "
        "resolve registry plugins spec records store stored report logits types zoo evaluation.worst testing scaffold "
        "study world",
        "typer submitit",
    ),
    "__main__": ("cli", ""),
    "__init__": ("hookspecs", ""),
}
FOR_TYPES = {  # and what besides under `if TYPE_CHECKING:`, which does not run
    "hookspecs": "types",
    "store": "_typeshed",
    "doctor": "types",
    "cli": "evaluation",
    "__init__": "judging logits run spec testing types",
}
ONLY_IN = {  # the files that may import it, mostly one
    "rich": "cli/render.py",
    "pyautoattack": "builtin/autoattack.py",
    "huggingface_hub": "data/download.py zoo/hub.py",
    "filelock": "zoo/hub.py",
    "submitit": "cli/slurm.py",
    "torchvision": "data/download.py",
}


@dataclass(frozen=True)
class Import:
    """One imported name: `module` is dotted, `name` empty for `import module`; where, and whether for types alone."""

    file: Path
    module: str
    name: str
    typing: bool = False

    @property
    def ours(self) -> bool:
        return self.module.partition(".")[0] == "robustdistill"

    @property
    def target(self) -> str:
        """The unit of ours that it reaches, or the outermost package of others."""
        return [*self.module.split("."), self.name][1 if self.ours else 0]

    def __str__(self) -> str:
        return f"{where(self.file)} imports {self.module}{f'.{self.name}' if self.name else ''}"


def where(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, node: ast.AST, typing: bool = False) -> Iterator[Import]:
    """Every import below `node`, those inside functions too."""
    if isinstance(node, ast.Import):
        yield from (Import(path, alias.name, "", typing) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{where(path)}: imports are absolute"
        yield from (Import(path, node.module or "", alias.name, typing) for alias in node.names)
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from imports(path, child, True)
        for child in node.orelse:
            yield from imports(path, child, typing)
    else:
        for child in ast.iter_child_nodes(node):
            yield from imports(path, child, typing)


ALL = [found for path in FILES for found in imports(path, tree(path))]


def permitted(i: Import) -> bool:
    ours, others = (set(part.split()) for part in ALLOWED[unit(i.file)])
    if i.typing and i.target in FOR_TYPES.get(unit(i.file), "").split():
        return True
    if i.ours:
        return i.target == unit(i.file) or i.target in ours or f"{i.target}.{i.name}" in ours
    doors = ONLY_IN.get(i.target, "").split()
    return i.target in sys.stdlib_module_names or i.target in others or where(i.file) in doors


# ---- who imports whom -------------------------------------------------------------------------------------
def test_every_unit_has_its_line_in_the_table() -> None:
    assert {unit(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("name", ALLOWED)
def test_each_unit_imports_what_the_table_allows(name: str) -> None:
    wrong = [str(i) for i in ALL if unit(i.file) == name and not permitted(i)]
    assert not wrong


@pytest.mark.parametrize(
    ("file", "source", "fine"),
    [
        ("losses.py", "import torch.nn.functional as F", True),
        ("losses.py", "import numpy", False),
        ("losses.py", "from robustdistill.logits import Logits", False),
        ("spec.py", "def f():\n    import torch", False),
        ("spec.py", "try:\n    from robustdistill import registry\nexcept ImportError: ...", False),
        ("engine/loop.py", "from robustdistill.engine import step", True),
        ("engine/loop.py", "from robustdistill.evaluation import suite", False),
        ("builtin/attacks.py", "from robustdistill.quantities import absolute_step", True),
        ("builtin/attacks.py", "from robustdistill.quantities import no_radius", False),
        ("builtin/attacks.py", "from robustdistill import quantities", False),
        ("hookspecs.py", "if TYPE_CHECKING:\n    from robustdistill.types import Model", True),
        ("hookspecs.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from robustdistill.types import Model", False),
        ("plugins.py", "from robustdistill.builtin import attacks", False),
        ("cli/render.py", "import rich.live", True),
        ("cli/train.py", "from rich.live import Live", False),
        ("run.py", "import typer", False),
    ],
)
def test_the_table_is_read_as_it_is_meant(file: str, source: str, fine: bool) -> None:
    found = list(imports(PACKAGE / file, ast.parse(source)))
    assert len(found) == 1
    assert all(map(permitted, found)) == fine


def test_nobody_imports_the_built_ins() -> None:
    assert not [str(i) for i in ALL if i.ours and i.target == "builtin" and unit(i.file) != "builtin"]


@pytest.mark.parametrize("package", ONLY_IN)
def test_some_packages_have_one_door(package: str) -> None:
    assert {where(i.file) for i in ALL if i.target == package} <= set(ONLY_IN[package].split())


def test_only_the_command_line_knows_typer_and_the_terminal() -> None:
    assert {unit(i.file) for i in ALL if i.target == "typer"} <= {"cli"}
    printing = [where(p) for p in FILES for n in ast.walk(tree(p)) if isinstance(n, ast.Name) and n.id == "print"]
    assert {name.partition("/")[0] for name in printing} <= {"cli"}


def test_there_is_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for i in ALL:
        if i.ours and not i.typing and i.target in ALLOWED and i.target != unit(i.file):
            graph.setdefault(unit(i.file), set()).add(i.target)
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("spec") < order.index("registry") < order.index("run")


def test_private_names_stay_in_their_file() -> None:
    private = [i for i in ALL if i.ours and i.name.startswith("_") and not i.name.startswith("__")]
    assert not [str(i) for i in private]


# ---- the packages of plugins/ -----------------------------------------------------------------------------
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
PUBLIC = {f"robustdistill{part}" for part in ("", ".types", ".losses", ".logits", ".testing")}
OTHERS = {"module": {"torch", "pydantic"}, "tests": {"torch", "numpy", "pytest"}}


def beyond_the_public_api(path: Path, source: ast.Module) -> list[str]:
    """What a file of a package imports besides itself, the public API and what everyone has."""
    import robustdistill

    folder = path.relative_to(ROOT / "plugins").parts[0]
    allowed = OTHERS["tests" if "tests" in path.parts else "module"] | set(sys.stdlib_module_names)
    wrong = []
    for i in imports(path, source):
        public = i.module in PUBLIC and (i.module != "robustdistill" or i.name in robustdistill.__all__)
        if not (public or i.module == folder.replace("-", "_") or (not i.ours and i.target in allowed)):
            wrong.append(f"{i.module}.{i.name}")
    return wrong


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: p.name)
def test_packages_need_the_public_api_alone_and_are_short(path: Path) -> None:
    assert not beyond_the_public_api(path, tree(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef)]
    assert not [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > MAX_FUNCTION]


@pytest.mark.parametrize(
    ("source", "fine"),
    [
        ("from robustdistill import Logits, hookimpl", True),
        ("from robustdistill.testing import check_objective", True),
        ("import robustdistill_mart", True),
        ("from robustdistill import registry", False),
        ("from robustdistill.engine.step import min_max", False),
        ("import robustdistill.builtin.objectives", False),
        ("def f():\n    from robustdistill_igdm import IGDM", False),
        ("import timm", False),
    ],
)
def test_what_a_package_may_import_is_read_as_it_is_meant(source: str, fine: bool) -> None:
    path = ROOT / "plugins" / "robustdistill-mart" / "robustdistill_mart.py"
    assert (beyond_the_public_api(path, ast.parse(source)) == []) == fine


# ---- sizes and words --------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", FILES, ids=where)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > MAX_FUNCTION]


@pytest.mark.parametrize("path", FILES, ids=where)
def test_modules_public_functions_and_classes_say_what_they_are(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module)
    mute = [n.name for n in module.body if _public(n) and not _hook(n) and not ast.get_docstring(n)]  # type: ignore[arg-type]
    assert not mute


def _public(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")


def _hook(node: ast.stmt) -> bool:
    """Hook implementations are documented by their specification."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return "hookimpl" in {ast.unparse(d) for d in decorators}


def test_no_file_names_a_machine() -> None:
    """No absolute path of somebody's machine: what is read is given or lies in the package."""
    texts = {where(p): [c.value for c in ast.walk(tree(p)) if isinstance(c, ast.Constant)] for p in FILES}
    roots = tuple(f"/{folder}/" for folder in ("root", "work", "home", "tmp"))
    assert not [name for name, found in texts.items() for v in found if isinstance(v, str) and v.startswith(roots)]


# ---- what importing costs ---------------------------------------------------------------------------------
HEAVY = ("torch", "torchvision", "timm", "pyarrow", "pyautoattack", "numpy", "matplotlib", "jinja2")


@pytest.mark.parametrize(
    "module",
    ["robustdistill", "robustdistill.spec", "robustdistill.plugins", "robustdistill.registry", "robustdistill.cli"],
)
def test_importing_does_not_import_torch(module: str) -> None:
    if module.endswith("cli") and not (PACKAGE / "cli" / "__init__.py").exists():
        pytest.skip("there is no command line yet")
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == []


def test_public_names_are_there_and_no_others() -> None:
    import robustdistill

    assert all(getattr(robustdistill, name) is not None for name in robustdistill.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trainn'"):
        robustdistill.trainn  # noqa: B018
    declared = {i.name for i in ALL if where(i.file) == "__init__.py" and i.typing and i.name != "Any"}
    assert declared | {"hookimpl", "hookspec", "__version__"} == set(robustdistill.__all__)
