"""`robustdistill plugins new` writes a package that installs, passes its tests and trains."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from environments import Environment
from robustdistill import scaffold
from robustdistill.cli import app
from robustdistill.errors import UserError
from robustdistill.registry import default_registry

needs_hatchling = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("editables") is None,
    reason="hatchling and editables are not installed; they come with .[dev]",
)


CACHE = Path(__file__).parents[1] / ".pytest_cache" / "mypy"


def new(*arguments: str) -> None:
    app.command().main(["plugins", "new", *arguments], prog_name="robustdistill", standalone_mode=False)


# ---- in an environment of its own -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


@needs_hatchling
@pytest.mark.slow
def test_the_three_commands_that_it_prints_install_test_and_train(environment: Environment, tmp_path: Path) -> None:
    """Exactly as they are printed: the training is a whole one, of the package's own recipe."""
    done = environment.run("robustdistill plugins new soft-blend", tmp_path)
    assert done.returncode == 0, done.stderr
    install, test, train = done.stdout.splitlines()
    assert train == "robustdistill train --method soft-blend --data digits"
    for command in (install, test, train):
        done = environment.run(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert command is not test or "3 passed" in done.stdout
    assert "soft-blend" in done.stdout
    assert (tmp_path / "runs/digits-soft-blend-digits-net-s0/result.json").exists()
    for command, told in (("list", "robustdistill-soft-blend 0.1"), ("check soft-blend", "0 fail")):
        done = environment.run(f"robustdistill plugins {command}", tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert told in done.stdout


# ---- the files ------------------------------------------------------------------------------------------------
def test_it_prints_three_commands_and_writes_four_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    new("soft-blend", "--out", "my packages/blend")
    out = capsys.readouterr()
    assert out.out.splitlines() == [
        "pip install -e 'my packages/blend[test]'",
        "pytest 'my packages/blend'",
        "robustdistill train --method soft-blend --data digits",
    ]
    assert sorted(p.name for p in Path("my packages").iterdir()) == ["blend"]
    assert {p.name for p in Path("my packages/blend").iterdir()} == {
        "README.md",
        "pyproject.toml",
        "robustdistill_soft_blend.py",
        "test_soft_blend.py",
    }


@pytest.mark.parametrize("name", ["a", "soft-blend", "a-method-of-my-own-2"])
def test_what_is_written_is_lint_clean_and_typed(name: str, tmp_path: Path) -> None:
    folder = scaffold.write(name, tmp_path / name)
    for arguments in (["check", "--select", "E,F,W,I,UP,B,SIM,RUF,C4,PT"], ["format", "--check"]):
        words = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", "."]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    assert "$" not in "".join(path.read_text() for path in folder.iterdir())


@pytest.mark.slow
def test_what_is_written_passes_mypy(tmp_path: Path) -> None:
    folder = scaffold.write("soft-blend", tmp_path / "blend")
    words = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(CACHE), "."]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---- refusals -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("My_Method", "lower-case words joined by hyphens"),
        ("-x", "lower-case words joined by hyphens"),
        ("2fast", "lower-case words joined by hyphens"),
        ("a--b", "lower-case words joined by hyphens"),
        ("../evil", "lower-case words joined by hyphens"),
        ("mmard", "there is a method 'mmard' already, of robustdistill 0.1.0"),
        ("lambda", "cannot name a function in the module"),
        ("kl", "cannot name a function in the module"),
    ],
)
def test_a_name_that_would_not_work_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        scaffold.write(name, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_the_name_of_an_installed_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "robustdistill_here.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="a module robustdistill_here is installed already"):
        scaffold.write("here", tmp_path / "new")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for taken in ("full", "file"):
        with pytest.raises(UserError, match="is there already"):
            scaffold.write("soft-blend", tmp_path / taken)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert scaffold.write("soft-blend", tmp_path / "empty").is_dir()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        scaffold.write("soft-blend", tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_every_template_becomes_a_file() -> None:
    folder = Path(scaffold.__file__).parent
    assert {p.name for p in folder.glob("*.in")} == set(scaffold.TEMPLATES)
    assert "soft-blend" not in default_registry().names("method")
