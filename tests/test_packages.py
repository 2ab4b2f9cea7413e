"""The distributions in plugins/: installed by pip, found, explained, mixed, stopped and resumed; their own tests."""

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import robustdistill as rd
from environments import Environment
from robustdistill.cli.app import command
from robustdistill.events import Finished, Started, Stepped
from robustdistill.plugins import DEFAULT_PLUGINS, SWITCH, load_plugins
from robustdistill.registry import KINDS, default_registry
from test_recording import TOLERANCE, differs
from test_stopping import after, equal, layer, to_the_end, whole

ROOT = Path(__file__).parents[1]
PAGES, PARTS = ROOT / "docs" / "plugins", ("inner", "outer")
FOLDERS = sorted((ROOT / "plugins").glob("robustdistill-*"))
pytestmark = pytest.mark.slow  # each package is installed, trained and stopped
PROVIDED = {
    "absld": {"method": {"absld"}, "inner": {"absld"}, "outer": {"absld"}},
    "adaad": {"method": {"adaad", "adaiad"}, "outer": {"adaad", "adaiad"}},
    "awp": {"modifier": {"awp-official"}},
    "example": {"method": {"blend"}, "outer": {"blend"}},
    "fair": {"modifier": {"fair"}},
    "igdm": {"modifier": {"igdm"}},
    "mart": {"method": {"mart"}, "outer": {"mart"}},
    "saad": {"method": {"saad"}, "inner": {"kl-teacher-linear"}, "outer": {"saad"}},
}
QUICK: dict[str, Any] = {
    "epochs": 2,
    "limit_batches": 2,
    "batch_size": 16,
    "student": {"name": "digits-net", "width": 4},
    "select": {"attack": "fgsm", "n": 16},
    "device": "cpu",
}


# ---- installed --------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment that pip installed all of them into, without a network."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; it comes with .[dev]")
    made = Environment(tmp_path_factory.mktemp("environment") / "venv")
    answer(made, f"pip install --quiet {shlex.join(map(str, FOLDERS))}", ROOT)
    return made


def answer(environment: Environment, command: str, cwd: Path) -> str:
    """What a command that succeeds prints."""
    done = environment.run(command, cwd)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


def records(environment: Environment, command: str, cwd: Path) -> list[dict[str, Any]]:
    """The JSON lines that a command prints."""
    return [json.loads(line) for line in answer(environment, command, cwd).splitlines()]


@pytest.fixture
def packages(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process finds the packages too, for the length of a test, and nothing else that is installed."""
    monkeypatch.syspath_prepend(next(environment.bin.parent.glob("lib/python*/site-packages")))
    monkeypatch.setenv(SWITCH, ",".join(PROVIDED))
    default_registry.cache_clear()
    yield
    default_registry.cache_clear()
    for name in [n for n in sys.modules if n.startswith("robustdistill_")]:
        del sys.modules[name]


def run(*arguments: str) -> None:
    command().main(list(arguments), prog_name="robustdistill", standalone_mode=False)


def trained(spec: dict[str, Any], **more: Any) -> tuple[list[float], dict[str, Any], Started]:
    """The losses of a short run, its result, and how it began."""
    started, *events, end = rd.train(QUICK | spec, **more)
    assert isinstance(started, Started)
    assert isinstance(end, Finished)
    return [e.loss for e in events if isinstance(e, Stepped)], dict(end.result), started


# ---- what they are ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_each_is_a_distribution_of_one_module_with_its_tests_and_page(folder: Path) -> None:
    name = folder.name.removeprefix("robustdistill-")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == folder.name
    assert project["dependencies"] == ["robustdistill>=0.1"]
    assert project["requires-python"] == ">=3.11"
    assert project["entry-points"] == {"robustdistill": {name: f"robustdistill_{name}"}}
    assert (folder / f"robustdistill_{name}.py").is_file()
    assert (folder / "tests" / f"test_{name}.py").is_file()
    readme = (folder / "README.md").read_text()
    assert f"pip install ./plugins/{folder.name}" in readme
    assert len(readme.splitlines()) <= 40
    linked = re.findall(r"\]\(([^)]+)\)", readme)
    assert linked
    assert all((folder / path).is_file() for path in linked)


def test_there_is_one_for_each_name() -> None:
    assert [f.name.removeprefix("robustdistill-") for f in FOLDERS] == sorted(PROVIDED)


def test_their_own_tests_pass(environment: Environment) -> None:
    answer(environment, f"pytest -p no:cacheprovider {shlex.quote(str(ROOT / 'plugins'))}", ROOT)


# ---- the command line -------------------------------------------------------------------------------------
def test_in_an_environment_of_their_own_they_are_listed_and_train(environment: Environment, tmp_path: Path) -> None:
    found = {p["name"]: p for p in records(environment, "robustdistill plugins list --json", tmp_path)}
    assert {name: found[name]["state"] for name in PROVIDED} == dict.fromkeys(PROVIDED, "works")
    assert {name: found[name]["distribution"] for name in PROVIDED} == {n: f"robustdistill-{n}" for n in PROVIDED}
    train = "robustdistill train --method adaad --with igdm,fair --epochs 1 --set limit_batches=2 --out run --json"
    assert records(environment, train, tmp_path)[-1]["event"] == "finished"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["with"] == ["igdm", "fair"]


def test_they_keep_their_contracts(packages: None, capsys: pytest.CaptureFixture[str]) -> None:
    run("plugins", "check", "--json")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not [r for r in found if r["state"] == "fails"]
    held = {(r["plugin"], r["kind"], r["unit"]) for r in found if r["state"] == "ok"}
    assert held == {(n, kind, unit) for n, kinds in PROVIDED.items() for kind in kinds for unit in kinds[kind]}


def test_they_work_and_provide_what_they_say(packages: None) -> None:
    found = {p.name: p for p in load_plugins() if p.name not in DEFAULT_PLUGINS}
    assert {name: p.error for name, p in found.items()} == dict.fromkeys(PROVIDED, "")
    for name, plugin in found.items():
        assert plugin.origin == f"robustdistill-{name} 0.1.0 ({name})"
        assert plugin.provides.keys() == {KINDS[kind] for kind in PROVIDED[name]}
        assert {kind: set(plugin.provides[KINDS[kind]]) for kind in PROVIDED[name]} == PROVIDED[name]


def test_each_unit_is_explained(packages: None, capsys: pytest.CaptureFixture[str]) -> None:
    for units in PROVIDED.values():
        for name in set().union(*units.values()):
            run("explain", name)
            assert name in capsys.readouterr().out
    run("explain", "adaad@wide")
    assert "eps = 16/255" in capsys.readouterr().out


# ---- their pages ------------------------------------------------------------------------------------------
def commands(page: str) -> Iterator[list[str]]:
    """The arguments of each `robustdistill` command in the shell blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield from (words[1:] for words in map(shlex.split, block.splitlines()) if words[0] == "robustdistill")


@pytest.mark.parametrize("name", PROVIDED)
def test_its_page_tells_of_every_unit_and_variant(name: str, packages: None) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert page.startswith(f"# {name}: ")
    assert f"pip install ./plugins/robustdistill-{name}" in page
    assert "nothing is published on a package index yet" in page
    for unit in set().union(*PROVIDED[name].values()):
        assert f"`{unit}`" in page
    for method in PROVIDED[name].get("method", ()):
        record = default_registry().get("method", method)
        assert f"`{record.inner}`" in page
        assert all(f"`{method}@{variant}`" in page for variant in record.variants)


@pytest.mark.parametrize("name", PROVIDED)
def test_the_commands_of_its_page_make_specs(name: str, packages: None, capsys: pytest.CaptureFixture[str]) -> None:
    told = list(commands((PAGES / f"{name}.md").read_text()))
    assert len(told) >= 2
    for arguments in told:
        run(*arguments, "--print-spec")
        assert "method = " in capsys.readouterr().out


def test_the_script_of_the_digits_asks_for_what_there_is(packages: None, capsys: pytest.CaptureFixture[str]) -> None:
    script = (ROOT / "specs" / "digits" / "plugins.sh").read_text()
    told = re.findall(r'^ +run (\S+) "\$seed" (.+)$', script, re.MULTILINE)
    assert len(told) == 10
    for _, flags in told:
        run("train", "-c", str(ROOT / "specs" / "digits" / "compare.toml"), *shlex.split(flags), "--print-spec")
        assert "epochs = 100" in capsys.readouterr().out


@pytest.mark.parametrize("method", sorted(set().union(*(p.get("method", ()) for p in PROVIDED.values()))))
def test_the_forwards_of_a_step_are_as_its_page_tells(method: str, packages: None) -> None:
    (name,) = [n for n, units in PROVIDED.items() if method in units.get("method", ())]
    started = next(iter(rd.train(QUICK | {"method": method})))
    assert isinstance(started, Started)
    counts = [f"{started.reads.get(f'{p} student', 0)} / {started.reads.get(f'{p} robust', 0)}" for p in PARTS]
    assert f"| `{method}` | {' | '.join(counts)} |" in (PAGES / f"{name}.md").read_text()


# ---- runs -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["sat", "rslad", "mmard", "adaad", "saad"])
def test_igdm_fair_and_awp_go_around_any_host(host: str, packages: None) -> None:
    losses, result, started = trained({"method": host, "with": ["igdm", "fair", "awp-official"]})
    assert result["with"] == ["igdm", "fair", "awp-official"]
    assert "igdm" in result["last"]["terms"] or host == "sat"  # one term alone is not told of
    assert all(loss == loss for loss in losses)
    assert started.reads["outer robust"] >= 2  # T(x') and T(x - d), whatever the host reads


@pytest.mark.parametrize(
    ("spec", "reads"),
    [
        ({"method": "adaad"}, (10, 10, 1, 1)),
        ({"method": "adaad", "outer": {"alpha": 0.5}}, (10, 10, 2, 2)),
        ({"method": "adaiad"}, (10, 10, 2, 1)),
        ({"method": "saad"}, (10, 1, 2, 2)),  # the teacher's gradient on x: one forward for the whole step
        ({"method": "absld"}, (10, 1, 2, 0)),
        ({"method": "mart"}, (10, 0, 2, 0)),
        ({"method": "blend"}, (10, 10, 1, 2)),
        ({"method": "sat", "with": "igdm"}, (10, 0, 2, 2)),
        ({"method": "adaad", "with": "igdm"}, (10, 10, 2, 2)),
        ({"method": "rslad", "with": "fair"}, (10, 1, 2, 0)),
        ({"method": "rslad", "inner": "kl-teacher-linear"}, (10, 1, 2, 1)),
    ],
    ids=str,
)
def test_forwards_of_a_step(spec: dict[str, Any], reads: tuple[int, ...], packages: None) -> None:
    keys = ("inner student", "inner robust", "outer student", "outer robust")
    started = next(iter(rd.train(QUICK | spec)))
    assert isinstance(started, Started)
    assert tuple(started.reads.get(k, 0) for k in keys) == reads


def test_adaad_is_mmard_without_its_triangle(packages: None) -> None:
    same = {"epochs": 3, "optim": {"weight_decay": 2e-4}, "schedule": {"name": "cosine"}}
    adaad = trained({"method": "adaad", **same, "outer": {"kl_scale": "rslad"}})
    mmard = trained({"method": "mmard", **same, "outer": {"alpha": 0.0}})
    assert adaad[0] == mmard[0]
    assert adaad[1]["last"]["test"] == mmard[1]["last"]["test"]


def test_absld_is_rslad_until_its_first_epoch_is_over(packages: None) -> None:
    absld, rslad = (trained({"method": m, "epochs": 2})[0] for m in ("absld", "rslad"))
    assert absld[:2] == pytest.approx(rslad[:2], rel=1e-6)
    assert absld[2:] != pytest.approx(rslad[2:], rel=1e-6)


def test_fair_weighs_from_the_second_epoch_on(packages: None) -> None:
    fair, plain = (trained({"method": "rslad", "with": w})[0] for w in (["fair"], []))
    assert fair[:2] == pytest.approx(plain[:2], rel=1e-6)
    assert fair[2:] != pytest.approx(plain[2:], rel=1e-6)


def test_awp_as_published_differs_from_the_plain_rule_by_its_weight_decay_alone(packages: None) -> None:
    def losses(name: str, decay: float) -> list[float]:
        return trained({"method": "sat", "with": [name], "optim": {"weight_decay": decay}})[0]

    assert losses("awp-official", 0.0) == pytest.approx(losses("awp", 0.0), rel=1e-4)
    assert losses("awp-official", 0.5) != pytest.approx(losses("awp", 0.5), rel=1e-4)


# ---- stopped, resumed, recorded ---------------------------------------------------------------------------
STATEFUL = [
    {"method": "adaad", "with": ["igdm", "fair"]},
    {"method": "adaiad"},
    {"method": "saad@official"},
    {"method": "absld"},
    {"method": "mart"},
    {"method": "blend"},
    {"method": "mmard", "with": [{"name": "awp-official", "warmup": 1}]},
]


@pytest.mark.parametrize("spec", STATEFUL, ids=str)
def test_a_run_goes_on_from_the_middle_of_an_epoch_to_the_bit(
    spec: dict[str, Any], packages: None, tmp_path: Path
) -> None:
    made = layer(**spec)
    a = whole(tmp_path / "a", made)
    assert to_the_end(tmp_path / "b", made, lambda: after(7), lambda: lambda: False) == 1  # in the second epoch
    equal(a, tmp_path / "b")


@pytest.mark.parametrize("spec", [STATEFUL[0], *STATEFUL[2:4], STATEFUL[6]], ids=str)
def test_a_recorded_step_does_what_the_readable_one_does(spec: dict[str, Any], packages: None) -> None:
    assert differs(spec, n=5) <= TOLERANCE
