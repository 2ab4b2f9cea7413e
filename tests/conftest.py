"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# Read when the library is imported, here and in every process that a test starts: no test downloads anything.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(ROOT / ".pytest_cache" / "hub")}
os.environ["ROBUSTDISTILL_PLUGINS"] = ""  # test modules that list the registry see the built-ins only, too


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread and a fixed global seed: results must not depend on the machine."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_third_party_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the built-ins only, whatever is installed beside them."""
    monkeypatch.setenv("ROBUSTDISTILL_PLUGINS", "")


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that nobody used before."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests keep for later they keep for themselves."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sets this for its whole process, which is the tests' own when they call it."""
    name = "HF_HUB_DISABLE_PROGRESS_BARS"
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with real CIFAR-10 images and large teachers, where it exists beside the repository.

    Decoded images are cached inside the repository's own test cache, once for all workers.
    """
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip("no ../shared folder with CIFAR-10 and teachers beside the repository")
    monkeypatch.setenv("XDG_CACHE_HOME", str(ROOT / ".pytest_cache"))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
