"""The documentation against the code: nothing undocumented, nothing stale, every command and snippet runs."""

import dataclasses
import importlib
import inspect
import re
import shlex
import shutil
import sys
import tomllib
import typing
from collections.abc import Iterator
from importlib.metadata import EntryPoint, version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import robustdistill as rd
from games import Tiny, game
from robustdistill import errors, events
from robustdistill.builtin.models import register_models
from robustdistill.builtin.objectives import register_inner_objectives
from robustdistill.cli import failures
from robustdistill.cli.app import command
from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.step import min_max
from robustdistill.plugins import load_plugins
from robustdistill.quantities import absolute_step
from robustdistill.registry import Registry, default_registry
from robustdistill.store import checkpoint
from robustdistill.study.items import items
from robustdistill.study.plan import Judging, Layout, Plot, Profile, Study, load_study

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(p.relative_to(DOCS)): p.read_text(encoding="utf-8") for p in sorted(DOCS.rglob("*.md"))}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
REGISTRY = default_registry()
TINY = ["--epochs", "1", "--batch-size", "4", "--set", "limit_batches=1"]


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("generate")
    sys.path.remove(str(DOCS))


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [text for found, text in FENCE.findall(PAGES[page]) if found == language]


def files(page: str, language: str) -> dict[str, str]:
    """The blocks that begin with a comment naming a file; of one file's blocks, the texts in a row."""
    found: dict[str, str] = {}
    for text in blocks(page, language):
        if name := re.match(r"# (\S+\.\w+)\n", text):
            found[name[1]] = found.get(name[1], "") + text
    return found


def calls(page: str) -> list[list[str]]:
    """The arguments of each `robustdistill` command in the shell blocks of a page."""
    lines = (shlex.split(line, comments=True) for text in blocks(page, "sh") for line in text.splitlines())
    return [words[1:] for words in lines if words[:1] == ["robustdistill"]]


def rows(page: str) -> dict[str, list[str]]:
    """The table rows of a page by each name in their first cell; the first row of a name counts."""
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in PAGES[page].splitlines() if line[:1] == "|"]
    return {name.strip("`"): row for row in reversed(cells) for name in SPAN.findall(row[0]) or [row[0]]}


# ---- generated parts --------------------------------------------------------------------------------------
def test_generated_parts_are_up_to_date(generate: ModuleType) -> None:
    stale = {path.name for path in generate.stale()}
    if f"typer=={version('typer')}" not in (ROOT / "constraints.txt").read_text():
        stale.discard("cli.md")  # every version of typer spells help in its own way
    assert not stale, "run `make docs`"


def test_check_tells_what_is_stale_and_changes_nothing(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("__pycache__"))
    generate.main([], docs)
    whole = {p: p.read_text() for p in docs.rglob("*.md")}
    parts = {"cli.md": "--resume", "spec.md": "`optim.lr`", "hooks.md": "register_models", "testing.md": "`gradient`"}
    stale = {docs / name: whole[docs / name].replace(word, "") for name, word in parts.items()}
    for path, text in stale.items():
        assert text != whole[path]
        path.write_text(text)
    assert generate.main(["--check"], docs) == 1
    assert sorted(line.split()[0] for line in capsys.readouterr().out.splitlines()) == sorted(parts)
    assert {p: p.read_text() for p in docs.rglob("*.md")} == whole | stale
    assert generate.main([], docs) == 0
    assert {p: p.read_text() for p in docs.rglob("*.md")} == whole
    assert generate.main(["--check"], docs) == 0


# ---- nothing undocumented ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", REGISTRY.names("method"))
def test_every_method_has_its_page(name: str) -> None:
    text, method = PAGES[f"methods/{name}.md"], REGISTRY.get("method", name)
    assert text.startswith(f"# {name}:")
    assert f"(methods/{name}.md)" in PAGES["index.md"]
    assert f"`{method.inner}`" in text
    assert f"`{method.outer}`" in text
    assert all(f"`{name}@{variant}`" in text for variant in ("paper", *method.variants))
    assert any(call[:3] == ["train", "--method", name] for call in calls(f"methods/{name}.md"))


@pytest.mark.parametrize("name", REGISTRY.names("method"))
def test_the_forwards_of_a_step_are_as_told(name: str) -> None:
    reads = dry_step(game({"method": name}), Tiny(), shape=(2, 1, 8, 8), classes=10)
    told = rows(f"methods/{name}.md")
    index = next(row for key, row in rows("index.md").items() if key.startswith(f"[{name}]"))
    for place, row, found in ((3, "attack", reads.inner), (4, "update", reads.outer)):
        counts = [str(found.get("student", 0)), str(sum(n for network, n in found.items() if network != "student"))]
        assert told[row][1:] == counts
        assert index[place] == " / ".join(counts)


def test_every_command_has_a_heading() -> None:
    def names(group: Any, prefix: str) -> Iterator[str]:
        yield prefix
        for name, sub in getattr(group, "commands", {}).items():
            if sub.hidden:
                continue
            yield from names(sub, f"{prefix} {name}")

    found = list(names(command(), "robustdistill"))
    assert {"robustdistill train", "robustdistill plugins list"} <= set(found)
    assert [f"## `{name}`" for name in found] == re.findall(r"^## .*$", PAGES["cli.md"], re.MULTILINE)


def test_every_key_of_a_spec_is_documented() -> None:
    spec = rd.RunSpec.model_validate(
        {
            **REGISTRY.get("dataset", "digits").layer(),
            **REGISTRY.get("method", "mmard").layer(),
            "method": "mmard",
            "data": {"name": "digits", "augment": {"pad": 1, "flip": False}, "extra": {"file": "more.npz"}},
        }
    )
    units = {"student", "teachers", "inner", "attack", "outer", "with"}

    def keys(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in table.items():
            if isinstance(value, dict) and key not in units:
                yield from keys(value, f"{prefix}{key}.")
            else:
                yield "teachers.ROLE" if key == "teachers" else prefix + key

    documented = rows("spec.md")
    for key in keys(spec.model_dump(by_alias=True)):
        assert len(documented[key][3]) > 10, key


def test_every_key_of_a_study_is_documented() -> None:
    first = re.findall(r"^\| (`.*?) \|", PAGES["studies.md"], re.MULTILINE)
    told = set(re.findall(r"`([a-zA-Z_.]+)`", "".join(first)))
    parts = {"judge": Judging, "table": Layout, "plot": Plot}
    keys = {f"{part}.{key}" for part, model in parts.items() for key in model.model_fields}
    keys |= {*Study.model_fields, "profiles.NAME"} - {*parts, "profiles", "profile"}
    assert told == keys
    own = re.findall(r"`(\w+)`", next(line for line in PAGES["studies.md"].splitlines() if "`profiles.NAME`" in line))
    assert set(Profile.model_fields) <= set(own)


def test_the_study_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGES["studies.md"], re.DOTALL)
    (tmp_path / "study.toml").write_text(text)
    assert len(items(load_study(tmp_path / "study.toml"), default_registry())) == 4 * 3


def test_defaults_of_the_spec_are_as_told() -> None:
    told = rows("spec.md")
    assert told["batch_size"][2] == "the method's"
    assert told["eps"][1:3] == ["number > 0 < 1", "the data set's"]
    assert told["select.attack"][2] == "`pgd-trades`"
    assert told["limit_batches"][2] == "none"
    assert told["average.name"][1] == "`none`, `ema`, `swa`"


def test_every_attack_has_its_row() -> None:
    told = rows("attacks.md")
    for name, attack in REGISTRY.units("attack").items():
        cells = told[name]
        for key, place in (("start", 2), ("step", 3), ("steps", 4)):
            if key in attack.params:
                assert cells[place] == str(attack.params[key]), name
    assert absolute_step(told["pgd-trades"][3], 8 / 255) == pytest.approx(0.003)


def test_every_data_set_model_and_teacher_is_told_of() -> None:
    told = rows("data-and-models.md")
    for name, data in REGISTRY.datasets().items():
        assert told[name][1] == f"{data.channels} x {data.size} x {data.size}"
        assert told[name][3:] == [
            str(data.eps),
            told[name][4],
            f"`{data.student}`",
            f"`{data.teacher}`" if data.teacher else "none",
        ]
        assert f"up to {data.augment.pad} pixel" in told[name][4]
    splits = REGISTRY.get("dataset", "digits").load(None)
    sizes = (len(s) for s in (splits.train, splits.holdout, splits.test))
    assert told["digits"][2] == " / ".join(f"{n:,}" for n in sizes)
    assert set(REGISTRY.names("teacher")) <= told.keys()


@pytest.mark.parametrize("name", [name for name in register_models() if name != "timm:{network}"])
def test_the_sizes_of_the_models_are_as_told(name: str) -> None:
    params = {"depth": 34, "width": 10} if name.startswith("wrn") else {"depth": 56} if "{" in name else {}
    with torch.device("meta"):
        channels = 1 if name == "digits-net" else 3
        network = register_models()[name].build(num_classes=10, in_channels=channels, **params)
    assert rows("data-and-models.md")[name][2] == f"{sum(p.numel() for p in network.parameters()):,}"


def test_every_event_and_exit_code_is_told_of() -> None:
    told = rows("runs.md")
    for event in typing.get_args(events.Event):
        assert told[event.__name__.lower()][2] == ", ".join(f.name for f in dataclasses.fields(event))
    codes = {e.exit_code for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, Exception)}
    codes |= {failures.INPUT, failures.MEMORY, failures.DISK, failures.INTERRUPTED}
    assert {str(code) for code in codes} <= told.keys()


# ---- links ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    for target in LINK.findall(FENCE.sub("", PAGES[page])):
        if not target.startswith(("https://", "http://")):
            path, _, fragment = target.partition("#")
            assert not fragment, "headings move: link to pages"
            assert (DOCS / page).parent.joinpath(path).is_file(), f"{page}: {target}"


def test_the_index_leads_everywhere() -> None:
    assert set(LINK.findall(PAGES["index.md"])) == PAGES.keys() - {"index.md"}


# ---- commands ---------------------------------------------------------------------------------------------
def run(arguments: list[str]) -> None:
    command().main(arguments, prog_name="robustdistill", standalone_mode=False)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "sh")])
def test_make_targets_and_other_commands_exist(page: str) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for text in blocks(page, "sh"):
        for words in map(shlex.split, text.splitlines()):
            assert words[0] in ("make", "robustdistill", "pip", "pytest", ".", "python")
            if words[0] == "python":
                assert (ROOT / words[1]).is_file(), words[1]
            assert words[0] != "make" or set(words[1:]) <= set(targets)


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files("tutorial.md", "toml").items():
        Path(name).write_text(text)
    for arguments in calls("tutorial.md"):
        run(made_small(arguments))
    out = capsys.readouterr().out
    assert "| runs/rslad" in out
    assert "0,1,2" in out
    assert {"mmard", "rslad", "mmard-seeds", "rslad-mmard-inner", "alpha-0", "mmard-awp", "wide"} <= {
        p.name for p in Path("runs").iterdir()
    }


def made_small(arguments: list[str]) -> list[str]:
    """The same command on a handful of images; without data of its own here, or with AutoAttack, only read."""
    if "cuda" in arguments:
        return [*arguments, "--print-spec"]
    if arguments[0] == "train" and "--resume" not in arguments:
        return [*arguments, *TINY]
    if arguments[0] == "eval":
        small = ["fgsm" if a == "aa" else a for a in arguments]
        return [*small, "--n", "4"]
    return arguments


OWN = ("tutorial.md", "writing-a-plugin.md", "reports.md", "plugins/")  # these have tests of their own
ELSEWHERE = [(p, call) for p in PAGES if not p.startswith(OWN) for call in calls(p)]


@pytest.mark.parametrize(("page", "arguments"), ELSEWHERE, ids=[f"{p} {' '.join(c)}" for p, c in ELSEWHERE])
def test_the_commands_of_other_pages_make_specs(page: str, arguments: list[str]) -> None:
    if arguments[0] in ("eval", "import-teacher"):  # of files that are not here: its flags at least are understood
        command().commands[arguments[0]].make_context(arguments[0], arguments[1:])
        return
    if arguments[0] == "study":  # of files that are not here
        known = command().commands["study"].commands
        name, *rest = arguments[1:] if arguments[1] in known else ["run", *arguments[1:]]
        known[name].make_context(name, rest)
        return
    if arguments[0] in ("list", "explain"):
        run(arguments)
        return
    assert arguments[0] in ("train", "bench"), "teach this test to run the command"
    arguments = ["train", *arguments[1:]]  # of `bench` these pages show flags that `train` has too
    run([*arguments, "--print-spec"])


def test_the_commands_of_the_page_on_reports_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(made_small(["train", "--method", "mmard", "--out", "runs/mmard"]))
    for arguments in calls("reports.md"):
        run(arguments)
    assert r"\toprule" in capsys.readouterr().out
    assert {"training.png", "scatter.png"} <= {p.name for p in Path("figures").iterdir()}


# ---- snippets ---------------------------------------------------------------------------------------------
def test_the_python_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for text in blocks("tutorial.md", "python"):
        exec(compile(text, "tutorial.md", "exec"), names)
    out = capsys.readouterr().out
    assert "pgd-trades" in out
    assert out.rstrip().endswith("Finished")


def test_the_python_of_the_page_on_using_a_student_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(REGISTRY, Path("runs/mine"), method="sat")
    data, utils = ModuleType("robustbench.data"), ModuleType("robustbench.utils")  # stand-ins: it is not installed
    images = torch.rand(4, 3, 32, 32), torch.arange(4)
    vars(data)["load_cifar10"] = lambda n_examples: images
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    vars(utils)["load_model"] = lambda name, dataset, threat_model: plain
    for module in (ModuleType("robustbench"), data, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    names: dict[str, Any] = {}
    for text in blocks("using-a-student.md", "python"):
        exec(compile(text, "using-a-student.md", "exec"), names)
    assert capsys.readouterr().out.count("worst") == 3
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(names["network"](x), names["student"](x))


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = (t for language, t in FENCE.findall((ROOT / "README.md").read_text()) if language == "python")
    small = text.replace('"epochs": 8, "batch_size": 64', '"epochs": 1, "limit_batches": 1, "batch_size": 4')
    assert small != text
    small = small.replace('rd.evaluate("runs/mine")', 'rd.evaluate("runs/mine", n=20)')
    names: dict[str, Any] = {}
    exec(compile(small, "README.md", "exec"), names)
    assert "pgd-trades" in capsys.readouterr().out.splitlines()[-1]
    assert not names["student"].training


def written(page: str) -> dict[str, str]:
    """The files whose parts a page shows, each part below a comment naming its file."""
    parts: dict[str, list[str]] = {}
    for language in ("python", "toml"):
        for text in blocks(page, language):
            first, _, rest = text.partition("\n")
            parts.setdefault(first.removeprefix("# "), []).append(rest.strip("\n"))
    return {name: "\n\n\n".join(found) + "\n" for name, found in parts.items()}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The plugin page's files as if they were installed, found by the entry points of its pyproject.toml."""
    for name, text in written("writing-a-plugin.md").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["robustdistill"] | {"extras": "extras"}
    found = [EntryPoint(name, value, "robustdistill") for name, value in points.items()]
    monkeypatch.setattr("robustdistill.plugins.entry_points", lambda group: found if group == "robustdistill" else [])
    monkeypatch.setenv("ROBUSTDISTILL_PLUGINS", ",".join(points))
    for folder in ("tests", "."):
        monkeypatch.syspath_prepend(tmp_path / folder)
    default_registry.cache_clear()
    yield Registry(load_plugins())
    default_registry.cache_clear()
    for name in ("extras", "robustdistill_example", "test_example"):
        sys.modules.pop(name, None)


def trained(registry: Registry, out: Path | None = None, **spec: Any) -> dict[str, Any]:
    tiny = {"epochs": 1, "limit_batches": 2, "batch_size": 4, "student": {"name": "digits-net", "width": 4}}
    *_, finished = rd.train(tiny | spec, registry=registry, out=out)
    assert isinstance(finished, events.Finished)
    return dict(finished.result)


def test_the_tutorial_writes_the_example_package_in_twenty_lines() -> None:
    pages = written("writing-a-plugin.md")
    package = ROOT / "plugins" / "robustdistill-example"
    names = {p.relative_to(package).as_posix() for p in package.rglob("*.*") if p.suffix in (".py", ".toml")}
    assert names == pages.keys() - {"extras.py"}
    assert {name: (package / name).read_text() for name in names} == {name: pages[name] for name in names}
    assert len([line for line in pages["robustdistill_example.py"].splitlines() if line.strip()]) <= 20


def test_the_plugin_of_the_page_trains(installed: Registry) -> None:
    assert not [p.error for p in installed.plugins if p.error]
    loss = [trained(installed, method="blend", outer={"mix": mix})["last"]["loss"] for mix in ("1/3", 1)]
    assert loss[0] != loss[1]
    with pytest.raises(errors.UserError, match="mix"):
        trained(installed, method="blend", outer={"mix": 2})


def test_the_tests_of_the_plugin_page_pass(installed: Registry) -> None:
    module = importlib.import_module("test_example")
    tests = [f for name, f in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 4
    for test in tests:
        test()


@pytest.mark.slow
def test_the_commands_of_the_plugin_page_run(
    installed: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in calls("writing-a-plugin.md"):
        run(made_small(arguments))
    out = capsys.readouterr().out
    assert "KL(S(x'), mix T(x) + (1 - mix) T(x'))" in out  # explain
    assert "runs/blend-0.3" in out  # compare
    assert " 0 fail" in out  # plugins check
    mixed = [tomllib.loads(Path(f"runs/{n}/spec.toml").read_text())["outer"]["mix"] for n in ("blend", "blend-0.3")]
    assert mixed == [0.5, 0.3]


def test_state_modifier_and_attack_of_the_plugin_page_work(installed: Registry, tmp_path: Path) -> None:
    extras = {"outer": "balanced", "with": "natural-term", "attack": {"name": "random", "tries": 2}}
    result = trained(installed, tmp_path / "run", method="mmard", **extras)
    assert list(result["last"]["terms"]) == ["adversarial", "natural", "ce_nat"]
    saved = checkpoint.latest(tmp_path / "run" / "checkpoints").checkpoint
    assert saved is not None
    (w,) = saved.state["units"].values()
    assert w != 0.5
    verdicts = rd.evaluate("digits-clean", attacks=["random", "random-100"], n=40, registry=installed)
    few, many = [v.accuracy for v in verdicts if v.attack.startswith("random")]
    assert many <= few


def test_state_modifier_and_attack_of_the_plugin_page_keep_their_contracts(installed: Registry) -> None:
    run(["plugins", "check", "extras"])  # exit code 7 if a check fails


@pytest.mark.parametrize("read", ["float(self.w)", "self.w.item()", "self.w.cpu()", "self.w if self.w > 0 else 0"])
def test_reading_a_value_on_the_host_is_refused_as_the_page_says(
    installed: Registry, tmp_path: Path, read: str
) -> None:
    source = (tmp_path / "extras.py").read_text()
    outer = {}
    for name, text in (("good", source), ("bad", source.replace("self.w.clone()", read))):
        module = ModuleType(name)
        exec(compile(text, name, "exec"), vars(module))
        outer[name] = min_max(register_inner_objectives()["ce"], module.Balanced(), None)
    assert dry_step(outer["good"], Tiny(), shape=(2, 1, 8, 8), classes=10).outer["robust"] == 2
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        dry_step(outer["bad"], Tiny(), shape=(2, 1, 8, 8), classes=10)
