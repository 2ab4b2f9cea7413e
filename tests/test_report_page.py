"""`robustdistill report`: a page that is whole, escaped, needs no network, and says what it cannot show."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from robustdistill.cli import main
from robustdistill.errors import DamagedFile
from robustdistill.events import Evaluated, Trained, Warned
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve
from robustdistill.store import rundir
from robustdistill.store.rundir import RunDir

HOSTILE = "<script>alert(1)<script>"
FIGURES = ["training", "scatter", "eps", "steps", "classes", "waterfall", "examples"]
VOID = {"meta", "br", "hr", "img", "link", "input"}


def of_images(n: int, clean: float, robust: float) -> dict[str, float]:
    return {"n": n, "clean": clean, "pgd-trades": robust}


def started(path: Path, **changes: Any) -> RunDir:
    """A run's directory as it is when its first epoch is judged."""
    spec = resolve([{"method": "mmard", "data": "digits", "epochs": 3, **changes}], default_registry())
    run = rundir.create(path, spec.to_toml(), {"python": "3.11", "packages": {"numpy": "2"}, "git": None})
    run.append_event(Trained(0, 2.0, 0.1, 1.0, True))
    run.append_event(Evaluated(0, "holdout", 0.8, 0.3, "pgd-trades", 2.0, 0.1, 1.0, best=True))
    return run


def ended(path: Path, clean: float = 0.9, robust: float = 0.4, n: int = 360, **changes: Any) -> RunDir:
    """The same when training has ended."""
    run = started(path, **changes)
    epoch = {"epoch": 0, "attack": "pgd-trades", "clean": 0.8, "robust": 0.3, "test": of_images(n, clean, robust)}
    run.write_result({"selection": "holdout", "last": epoch, "best": epoch})
    return run


def verdict(attack: str, accuracy: float, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "attack": attack,
        "eps": 0.2,
        "n": 360,
        "accuracy": accuracy,
        "interval95": [accuracy - 0.05, accuracy + 0.05],
    }
    classes = [accuracy] * 8 + [None, accuracy / 2]
    return made | {"per_class": classes, "params": {}, "alarms": [], "correct": ""} | more


def judged(run: RunDir, **more: Any) -> None:
    """`evaluation.json` with all that it may hold."""
    stages = [{"name": name, "accuracy": a} for name, a in (("apgd-ce", 0.5), ("apgd-t", 0.4))]
    verdicts = [
        verdict("clean", 0.9),
        verdict("pgd", 0.5, params={"steps": 20, "step": "eps/4", "start": "uniform"}, alarms=["no\ngradient"]),
        verdict("aa", 0.4, stages=stages, params={"seed": 0}),
        verdict("worst", 0.35, params={"over": ["pgd", "aa"]}),
    ]
    curve = {"attack": "pgd", "accuracy": 0.5, "n": 360, "interval95": [0.4, 0.6]}
    curves = [curve | {"curve": "eps", "eps": e, "steps": 20} for e in (0.1, 0.2)]
    curves += [curve | {"curve": "steps", "eps": 0.2, "steps": s} for s in (1, 10)]
    facts = {
        "data": "digits",
        "eps": 0.2,
        "n": 360,
        "whole": True,
        "curves": curves,
        "alarms": ["Look here.", "<b>&bold"],
    }
    (run.path / rundir.EVALUATION).write_text(json.dumps(facts | {"verdicts": verdicts} | more))


def with_examples(run: RunDir, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2, 1, 8, 8), np.float32)
    logits = rng.random((2, 10), np.float32)
    made = {"x": x, "x_adv": (x + 0.1).clip(0, 1), "y": np.arange(2), "logits": logits, "logits_adv": logits}
    save_file(made | changes, run.path / "examples.safetensors")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of a hostile name with everything a report can show, beside another one, and its report."""
    folder = tmp_path_factory.mktemp("runs")
    run = ended(folder / HOSTILE)
    judged(run)
    with_examples(run)
    ended(folder / "<img src=x onerror=y> $a_{b", 0.7, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTDISTILL_PLUGINS", "")
        assert command(run.path) == 0
    return run


def command(*args: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, args)])
    assert isinstance(end.value.code, int)
    return end.value.code


def text_of(run: RunDir) -> str:
    return (run.path / "report.html").read_text(encoding="utf-8")


def page(run: RunDir) -> str:
    """The page made anew."""
    assert command(run.path) == 0
    return text_of(run)


class Page(HTMLParser):
    """All elements with their attributes; every element must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for found, attributes in self.elements if found == tag)


# ---- the page -----------------------------------------------------------------------------------------------
def test_the_page_is_whole_and_shows_every_figure(full: RunDir) -> None:
    text = text_of(full)
    parsed = Page(text)
    assert [h["id"] for h in parsed.all("h2")] == ["alarms", "verdicts", "selection", *FIGURES, "spec", "environment"]
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == len(FIGURES)
    for name, svg in zip(FIGURES, svgs, strict=True):
        assert f'role="img" aria-labelledby="{name}-title"><title id="{name}-title">' in svg
        assert len(re.findall(r"<path|<use|<image", svg)) > 5
    ids = Counter(a["id"] for _, a in parsed.elements if "id" in a)
    assert ids.most_common(1)[0][1] == 1
    labels = [a["aria-labelledby"] for _, a in parsed.elements if "aria-labelledby" in a]
    assert set(labels) <= ids.keys()


def test_the_page_loads_nothing(full: RunDir) -> None:
    text = text_of(full)
    parsed = Page(text)
    policy = next(m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert not {"script", "link", "iframe", "img", "object", "base"} & {tag for tag, _ in parsed.elements}
    links = [v for _, a in parsed.elements for k, v in a.items() if k in ("src", "href", "xlink:href", "srcset")]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not [k for _, a in parsed.elements for k in a if k.startswith("on")]
    assert not re.search(r"@import|url\((?!#)", text)


def test_names_and_labels_are_escaped(full: RunDir) -> None:
    text = text_of(full)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;script&gt;</h1>" in text
    assert "<li>&lt;b&gt;&amp;bold</li>" in text
    assert "&lt;img src=x onerror=y&gt; $a_{b" in text


def test_the_page_says_what_was_found(full: RunDir) -> None:
    text = " ".join("".join(Page(text_of(full)).text).split())
    assert (
        "mmard trained digits-net with digits-robust as teacher. Of 360 test images of digits it classifies 90.00 % "
        "right without an attack and 35.00 % (95 % interval 30.0 - 40.0) under all of pgd and aa at eps 0.2." in text
    )
    assert "Look here." in text
    assert "pgd: no gradient" in text
    assert "right under all of pgd, aa" in text
    assert "17.5 (9)" in text  # the worst class under all attacks
    assert 'name = "digits-robust"' in text
    assert "packages.numpy" in text


def test_the_same_run_gives_the_same_page(full: RunDir) -> None:
    before = text_of(full)
    assert page(full) == before


def test_what_is_missing_is_left_out_or_told_how_to_get(tmp_path: Path) -> None:
    run = started(tmp_path / "a run")
    run.append_event(Warned("the GPU is shared"))
    text = page(run)
    assert [h["id"] for h in Page(text).all("h2")] == ["alarms", "training", "missing", "spec", "environment"]
    assert "The run has not ended: 1 of 3 epochs are done." in text
    assert "<li>the GPU is shared</li>" in text
    quoted = f"&#39;{run.path}&#39;"
    listed = "--attacks fgsm,pgd,pgd-trades,cw,aa"
    for told in (f"train --resume {quoted}", f"eval {quoted}</code>", f"eval {quoted} {listed}"):
        assert f"<code>robustdistill {told}" in text


def test_an_ended_run_without_eval_has_the_numbers_of_its_end(tmp_path: Path) -> None:
    text = page(ended(tmp_path / "run", limit_batches=2, epochs=1))
    assert "90.00 % right without an attack and 40.00 % under pgd-trades at eps 0.2, judged once" in text
    assert "<li>a trial with limit_batches = 2</li>" in text


def test_a_verdict_under_one_attack_or_none(tmp_path: Path) -> None:
    run = ended(tmp_path / "run")
    judged(run, verdicts=[verdict("clean", 0.9), verdict("cw", 0.2)], curves=[])
    assert "20.00 % (95 % interval 15.0 - 25.0) under cw at eps" in page(run)
    judged(run, verdicts=[verdict("clean", 0.9)], eps=0.1, whole=False, n=20)
    text = page(run)
    assert "judged under no attack" in text
    assert "<li>best judged on the first 20 test images only</li>" in text
    assert "<li>best judged at eps 0.1, trained at 0.2</li>" in text


def test_runs_are_set_beside_what_can_be_compared_with_them(tmp_path: Path) -> None:
    run = ended(tmp_path / "this")
    ended(tmp_path / "like", 0.5, 0.25, method="sat")
    ended(tmp_path / "other-eps", eps=0.1)
    ended(tmp_path / "other-images", n=10)
    started(tmp_path / "running")
    (ended(tmp_path / "damaged").path / rundir.RESULT).write_text("{")
    text = page(run)
    assert "like 50.0 and 25.0; digits-robust 98.3 and 80.3; this run&#39;s last epoch 90.0 and 40.0;" in text
    assert not re.search("other-eps|other-images|running|damaged", text)


# ---- the command --------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("form", ["svg", "png"])
def test_figures_become_files(full: RunDir, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "page.html", tmp_path / "new" / "figures"
    assert command(full.path, "--out", out, "--figures", folder, "--format", form) == 0
    assert capsys.readouterr().out.splitlines() == [*(str(folder / f"{name}.{form}") for name in FIGURES), str(out)]
    for name in FIGURES:
        file = folder / f"{name}.{form}"
        if form == "svg":
            assert file.read_text().startswith("<?xml")
        else:
            with Image.open(file) as picture:
                assert min(picture.size) > 400
    assert out.read_text() == text_of(full)


def test_the_newest_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command() == 2
    started(tmp_path / "runs" / "a")
    assert command() == 0
    assert (tmp_path / "runs" / "a" / "report.html").exists()


@pytest.mark.parametrize(
    "changes",
    [{"y": np.arange(3)}, {"x": np.zeros((2, 8, 8))}, {"logits": np.zeros((2, 9))}, {"x_adv": np.zeros((2, 1, 8, 7))}],
)
def test_examples_that_do_not_fit_are_damaged(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = ended(tmp_path / "run")
    with_examples(run, **changes)
    assert command(run.path) == DamagedFile.exit_code


@pytest.mark.parametrize("name", ["examples.safetensors", rundir.EVALUATION, rundir.RESULT, rundir.SPEC])
def test_damaged_files_end_with_4(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = ended(tmp_path / "run")
    (run.path / name).write_bytes(b"\xff{")
    assert command(run.path) == DamagedFile.exit_code
    told = capsys.readouterr()
    assert name in told.err
    assert (told.out, (run.path / "report.html").exists()) == ("", False)


# ---- in a browser -------------------------------------------------------------------------------------------
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MEASURE = """<script>
const parts = [...document.querySelectorAll('svg')]
  .map(s => [s.getBoundingClientRect(), s.querySelector('g').getBBox()]);
document.title = JSON.stringify({
  sizes: parts.flat().map(b => Math.min(b.width, b.height)),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
});
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_draws_every_figure(full: RunDir, tmp_path: Path, width: int) -> None:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", text_of(full))  # the measuring needs a script
    (tmp_path / "measured.html").write_text(text.replace("</body>", MEASURE))
    options = f"--headless --no-sandbox --disable-gpu --dump-dom --window-size={width},900"
    places = (f"--user-data-dir={tmp_path / 'user'}", f"file://{tmp_path / 'measured.html'}")
    call = [str(BROWSER), *options.split(), *places]
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stderr
    measured = json.loads(found[1])
    assert len(measured["sizes"]) == 2 * len(FIGURES)
    assert min(measured["sizes"]) > 100
    assert measured["wide"] <= 0  # the page itself never scrolls sideways
