"""Teachers' files from servers that misbehave, one test a way; nothing here asks a server outside this machine."""

import contextlib
import errno
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import hub as hubs
import robustdistill as rd
import servers
from robustdistill.builtin.models import digits_net
from robustdistill.cli import main
from robustdistill.errors import DamagedFile, RobustDistillError, UserError
from robustdistill.plugins import Plugin
from robustdistill.registry import Registry, default_registry
from robustdistill.store.weights import as_bytes, read_weights
from robustdistill.types import Teacher
from robustdistill.zoo import fetch, http, hub, place
from servers import Server, serving

FILE = as_bytes(digits_net.build(num_classes=10, in_channels=1).state_dict())
HALF = len(FILE) // 2
SHA256 = hashlib.sha256(FILE).hexdigest()
QUOTA = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Sorry, you can't view or
download this file at this time. Too many users have viewed or downloaded this file recently.</body></html>"""
VIRUS = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body></body></html>"


@pytest.fixture(autouse=True)
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes any time."""
    made: list[float] = []
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=made.append))
    return made


def teacher(*urls: str, **known: Any) -> Teacher:
    return Teacher("digits-net", None, "digits", sources=urls, **known)


def come(*urls: str, **known: Any) -> Path:
    """The file of the teacher `far` as a run gets it."""
    entry = teacher(*urls, **known)
    path = fetch.fetched("far", entry, read_weights)
    place.check("far", entry, path)
    return path


def failure(server: Server, kind: type[RobustDistillError] = UserError, **known: Any) -> str:
    """What is said of a file that does not come; nothing has then taken its place."""
    with pytest.raises(RobustDistillError) as raised:
        come(server.url, **known)
    assert type(raised.value) is kind
    assert not place.place("far", teacher()).exists()
    said = str(raised.value)
    assert server.url in said
    assert "--teacher far@FILE" in said
    return said


def folder() -> list[str]:
    """What lies in the cache, locks aside."""
    found = place.place("far", teacher()).parent.iterdir()
    return sorted(path.name for path in found if path.suffix != ".lock")


# ---- a file that comes --------------------------------------------------------------------------------------
def test_a_file_comes_once_and_is_there_offline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with serving(servers.whole(FILE)) as server:
        path = come(server.url)
        assert path == tmp_path / "cache" / "robustdistill" / "teachers" / "far-digits.pt"
        assert path.read_bytes() == FILE
        assert caplog.messages[0] == f"downloading teacher far from {server.url.split('/')[2]} to {path}, once"
        assert SHA256 in caplog.messages[1]
        assert len(caplog.messages) == 2
        assert folder() == ["far-digits.pt", "far-digits.pt.json"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert come(server.url) == path  # the server is gone
    assert (len(server.asked), len(caplog.messages)) == (1, 2)


def test_the_name_of_the_file_tells_teacher_and_data_set() -> None:
    names = {n: place.place(n, default_registry().get("teacher", n)).name for n in ("wrn-34-10", "wrn-28-10-c100")}
    assert names == {"wrn-34-10": "wrn-34-10-cifar10.pt", "wrn-28-10-c100": "wrn-28-10-c100-cifar100.pt"}
    assert place.place("../a b", teacher()).name == ".._a_b-digits.pt"


def test_a_known_digest_is_compared_and_nothing_is_put_on_record(caplog: pytest.LogCaptureFixture) -> None:
    with serving(servers.whole(FILE)) as server:
        come(server.url, sha256=SHA256, size=len(FILE))
    assert folder() == ["far-digits.pt"]
    assert len(caplog.messages) == 1


def test_a_run_downloads_its_teacher_last_and_judges_it(tmp_path: Path) -> None:
    content = (Path(digits_net.__file__).parents[1] / "assets" / "digits-clean.safetensors").read_bytes()
    spec = {"method": "rslad", "teacher": "far", "epochs": 1, "limit_batches": 1, "device": "cpu"}
    with serving(servers.whole(content)) as server:
        registry = registry_with(replace(teacher(server.url, clean=0.9889), params={"width": 32}))
        for wrong in ({"data": {"name": "digits", "dir": "/x"}}, {"student": "mn-v3"}):
            with pytest.raises(UserError):
                list(rd.train(spec | wrong, registry=registry, out=tmp_path / "wrong"))
        assert server.asked == []
        events = list(rd.train(spec, registry=registry, out=tmp_path / "run"))
    assert len(server.asked) == 1
    assert type(events[-1]).__name__ == "Finished"
    hashes = json.loads(next((tmp_path / "run").glob("checkpoints/*/manifest.json")).read_text())
    assert hashlib.sha256(content).hexdigest() in json.dumps(hashes)


def test_a_teacher_that_cannot_be_built_is_not_downloaded() -> None:
    with serving(servers.whole(FILE)) as server:
        registry = registry_with(replace(teacher(server.url), model="digits-nett"))
        with pytest.raises(UserError, match="unknown model 'digits-nett'"):
            list(rd.train({"method": "rslad", "teacher": "far", "device": "cpu"}, registry=registry))
    assert server.asked == []


def registry_with(entry: Teacher) -> Registry:
    return Registry([*default_registry().plugins, Plugin("x", "x", "1", {"register_teachers": {"far": entry}})])


# ---- resuming -----------------------------------------------------------------------------------------------
def test_what_broke_off_goes_on_where_it_was(waits: list[float]) -> None:
    with serving(servers.broken_off(FILE, HALF), servers.whole(FILE)) as server:
        assert come(server.url).read_bytes() == FILE
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert waits == [1.0]


def test_the_next_run_goes_on_too() -> None:
    with serving(servers.broken_off(FILE, HALF), servers.status(404)) as server:
        failure(server)
        assert folder() == ["far-digits.pt.part", "far-digits.pt.part.json"]
        server.answers = [servers.whole(FILE)]
        assert come(server.url).read_bytes() == FILE
    assert server.ranges()[-1] == f"bytes={HALF}-"
    assert folder() == ["far-digits.pt", "far-digits.pt.json"]


KILLED = """
import sys
from robustdistill.types import Teacher
from robustdistill.zoo import fetch
fetch.fetched("far", Teacher("digits-net", None, "digits", sources=(sys.argv[1],)), lambda path: None)
"""


def test_a_process_that_is_killed_leaves_what_the_next_one_goes_on_with() -> None:
    over, part = Event(), place.place("far", teacher()).with_name("far-digits.pt.part")

    def hangs(request: Any) -> None:
        servers.broken_off(FILE, HALF)(request)
        over.wait(30)

    with serving(hangs, servers.whole(FILE)) as server:
        environment = os.environ | {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url], env=environment)
        while not (part.exists() and part.stat().st_size == HALF):
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended by itself with {process.wait(0.02)}")
        process.kill()
        process.wait()
        over.set()
        assert not place.place("far", teacher()).exists()
        assert come(server.url).read_bytes() == FILE
    assert server.ranges() == [None, f"bytes={HALF}-"]


def test_a_file_that_changed_meanwhile_is_begun_anew() -> None:
    other = FILE[:-4] + b"\0\0\0\0"
    with serving(servers.broken_off(other, HALF, tag='"zero"'), servers.whole(FILE)) as server:
        assert come(server.url, sha256=SHA256).read_bytes() == FILE


def test_without_a_tag_to_tell_it_by_nothing_is_gone_on_with() -> None:
    with serving(servers.broken_off(FILE, HALF, tag='W/"weak"'), servers.whole(FILE)) as server:
        assert come(server.url, sha256=SHA256).read_bytes() == FILE
    assert server.ranges() == [None, None]


def test_a_part_that_was_not_asked_for_is_not_taken() -> None:
    answers = servers.broken_off(FILE, HALF), servers.wrong_part(FILE), servers.whole(FILE)
    with serving(*answers) as server:
        assert come(server.url, sha256=SHA256).read_bytes() == FILE


def test_more_than_there_is_is_begun_anew() -> None:
    with serving(servers.broken_off(FILE + b"more", len(FILE) + 2), servers.whole(FILE)) as server:
        assert come(server.url, sha256=SHA256).read_bytes() == FILE
    assert server.ranges() == [None, f"bytes={len(FILE) + 2}-", None]


def test_what_is_whole_already_is_not_downloaded_again() -> None:
    path = place.place("far", teacher())
    part = path.with_name(f"{path.name}.part")
    with serving(servers.whole(FILE)) as server:
        part.parent.mkdir(parents=True)
        http.download(server.url, part)  # and whoever did it died
        server.answers = [servers.status(416, Content_Range=f"bytes */{len(FILE)}")]
        assert come(server.url).read_bytes() == FILE


def test_a_damaged_word_on_what_was_begun_is_no_word() -> None:
    with serving(servers.broken_off(FILE, HALF), servers.status(404)) as server:
        failure(server)
        path = place.place("far", teacher())
        path.with_name(f"{path.name}.part.json").write_text("[")
        server.answers = [servers.whole(FILE)]
        assert come(server.url).read_bytes() == FILE
    assert server.ranges()[-1] is None


# ---- answers that are no file -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("page", "kind", "sentence"),
    [
        (QUOTA, "text/html; charset=utf-8", "gives no weights but its quota page"),
        (VIRUS, "text/html", "only a click in a browser passes"),
        (b"<html>Please log in</html>", "application/octet-stream", "gives no weights but a page to log in"),
        (b"\n<!doctype html><p>Hello", "application/octet-stream", "gives no weights but a web page"),
        (b"", "application/octet-stream", "breaks off: 0 bytes came"),
    ],
)
def test_a_web_page_is_no_file(page: bytes, kind: str, sentence: str) -> None:
    with serving(servers.whole(page, kind=kind)) as server:
        assert sentence in failure(server, DamagedFile if page else UserError)
    assert folder() == ([] if page else ["far-digits.pt.part.json"])


@pytest.mark.parametrize(
    ("code", "tries", "sentence"),
    [
        (404, 1, "answers 404: the file is not there (any more)"),
        (403, 1, "answers 403: the server lets nobody fetch the file"),
        (418, 1, "answers 418: the server does not give the file"),
        (429, 4, "answers 429: too many requests just now (4 tries)"),
        (500, 4, "answers 500: the server does not work just now (4 tries)"),
        (503, 4, "answers 503: the server does not work just now (4 tries)"),
    ],
)
def test_refusals_are_sentences(code: int, tries: int, sentence: str, waits: list[float]) -> None:
    with serving(servers.status(code)) as server:
        assert sentence in failure(server)
        assert len(server.asked) == tries
    assert waits == [1.0, 4.0, 10.0][: tries - 1]


def test_what_fails_for_a_moment_comes_after_the_pause_that_is_asked_for(waits: list[float]) -> None:
    answers = servers.status(503), servers.status(429, Retry_After="7"), servers.status(429, Retry_After="9999")
    with serving(*answers, servers.whole(FILE)) as server:
        come(server.url)
    assert waits == [1.0, 7.0, http.LONGEST]


def test_a_drives_refusal_speaks_of_its_quota() -> None:
    import urllib.error
    from email.message import Message

    from robustdistill.zoo import answers

    url = default_registry().get("teacher", "wrn-34-10").sources[0]
    assert "too many people" in str(answers.refused(url, urllib.error.HTTPError(url, 403, "no", Message(), None)))


def test_a_file_that_always_breaks_off() -> None:
    with serving(servers.broken_off(FILE, HALF, tag="")) as server:
        said = failure(server)
    assert f"breaks off: {HALF:,} of {len(FILE):,} bytes came; the next run goes on from there (4 tries)" in said
    assert len(server.asked) == 5  # the first brought bytes


def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.05)
    over = Event()
    with serving(servers.silent(over)) as server:
        assert "does not answer: it was silent for too long (4 tries)" in failure(server)
        over.set()


def test_nobody_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/teacher.pt"
        assert "cannot be reached: Connection refused (4 tries)" in failure(Server(url=url))


def test_what_is_no_web_address() -> None:
    assert "it must begin with https://" in failure(Server(url="file:///etc/hostname"))


# ---- files that are not the teacher's -----------------------------------------------------------------------
def test_another_file_under_a_known_digest() -> None:
    other = FILE[:-1] + bytes([FILE[-1] ^ 1])
    with serving(servers.whole(other)) as server:
        said = failure(server, DamagedFile, sha256=SHA256)
    assert f"its sha256 is {hashlib.sha256(other).hexdigest()} and not {SHA256}" in said
    assert folder() == []


def test_another_size_than_is_known() -> None:
    with serving(servers.whole(FILE)) as server:
        assert f"gives {len(FILE):,} bytes and not the 7" in failure(server, DamagedFile, size=7)


def test_half_a_file_of_unknown_length_does_not_pass() -> None:
    with serving(servers.without_length(FILE[:HALF])) as server:
        assert "is truncated or garbled" in failure(server, DamagedFile)
    assert folder() == []


def test_a_file_that_changes_here_is_refused_ever_after() -> None:
    with serving(servers.whole(FILE)) as server:
        path = come(server.url)
        path.write_bytes(FILE[:-1] + b"x")
        with pytest.raises(
            DamagedFile, match=r"far-digits.pt is not the file of teacher 'far': its sha256 differs; del"
        ):
            come(server.url)
        path.unlink()
        server.answers = [servers.whole(FILE[:-1] + bytes([FILE[-1] ^ 1]))]
        assert "gives another file than it should" in failure(server, DamagedFile)  # the record is kept
        place.note(path).write_text("{}")
        with pytest.raises(DamagedFile, match=r"far-digits.pt.json is damaged; delete it"):
            come(server.url)


def test_a_file_put_there_by_hand_goes_on_record(caplog: pytest.LogCaptureFixture) -> None:
    path = place.place("far", teacher())
    path.parent.mkdir(parents=True)
    path.write_bytes(FILE)
    come("http://127.0.0.1:9/nowhere")
    assert SHA256 in caplog.messages[0]
    come("http://127.0.0.1:9/nowhere")
    assert len(caplog.messages) == 1


def test_a_file_that_only_code_can_read_runs_nothing(tmp_path: Path) -> None:
    import pickle

    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(trap),)

    with serving(servers.whole(pickle.dumps(Trap()))) as server:
        path = come(server.url)
    with pytest.raises(DamagedFile, match="import-teacher"):
        read_weights(path)
    assert not trap.exists()


# ---- more than one source -----------------------------------------------------------------------------------
def test_the_second_source_is_asked_when_the_first_fails() -> None:
    with serving(servers.status(404)) as first, serving(servers.whole(FILE)) as second:
        assert come(first.url, second.url).read_bytes() == FILE
    with serving(servers.whole(QUOTA)) as first, serving(servers.status(404)) as second:
        place.place("far", teacher()).unlink()
        with pytest.raises(DamagedFile) as raised:
            come(first.url, second.url)
    assert all(part in str(raised.value) for part in (f"{first.url} gives", f"{second.url} answers 404", "By hand"))


# ---- this machine -------------------------------------------------------------------------------------------
def test_offline_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with serving(servers.whole(FILE)) as server:
        assert "HF_HUB_OFFLINE forbids it now" in failure(server)
    assert server.asked == []


def test_a_disk_without_room_is_found_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(FILE) - 1))
    with serving(servers.whole(FILE)) as server, pytest.raises(OSError) as raised:
        come(server.url)
    assert raised.value.errno == errno.ENOSPC
    assert not place.place("far", teacher()).exists()


def test_a_disk_that_fills_up_leaves_no_half_file(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **others: Any) -> Any:
        if mode == "ab":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, *more, **others)

    monkeypatch.setattr(Path, "open", full)
    with serving(servers.whole(FILE)) as server, pytest.raises(OSError, match="No space left"):
        come(server.url)
    assert folder() == []


def test_of_two_at_once_one_downloads(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on = Event(), Event()

    def slow(request: Any) -> None:
        begun.set()
        go_on.wait(10)
        servers.whole(FILE)(request)

    with serving(slow) as server:
        first = Thread(target=come, args=(server.url,))
        first.start()
        assert begun.wait(10)
        second = Thread(target=come, args=(server.url,))
        second.start()
        while not any("waiting" in message for message in caplog.messages):
            second.join(0.01)
        go_on.set()
        first.join(10)
        second.join(10)
    assert len(server.asked) == 1
    assert place.place("far", teacher()).read_bytes() == FILE


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    err = io.StringIO()
    err.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", err)
    with serving(servers.whole(FILE)) as server:
        come(server.url)
    assert ("far-digits.pt" in err.getvalue() and "B/s" in err.getvalue()) is terminal


@pytest.mark.parametrize(("full", "answer", "code"), [(0, 404, 2), (0, 200, 4), (1, 200, 6)])
def test_the_command_line_ends_with_the_code_of_the_failure(
    full: bool, answer: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(servers.whole(QUOTA, kind="x/y") if answer == 200 else servers.status(answer)) as server:
        monkeypatch.setattr(hub, "address", lambda _: server.url)
        monkeypatch.setattr("robustdistill.registry.default_registry", lambda: registry_with(teacher("http://x/y")))
        if full:
            monkeypatch.setattr(http.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
        with pytest.raises(SystemExit) as ended:
            main(["eval", "far", "--device", "cpu"])
    assert ended.value.code == code
    assert ("the disk is full" if full else f"{server.url} ") in capsys.readouterr().err


# ---- the Hugging Face hub -----------------------------------------------------------------------------------
CODE = """
import sys
from pathlib import Path
from robustdistill.zoo import hub
try:
    print(hub.download("hf:someone/teachers/deep/far.pt", Path(sys.argv[1])))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_file_of_the_hub(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "far.pt.part"
    with hubs.serving({"/someone/teachers/deep/far.pt": FILE} if there else {}) as stand_in:
        environment = os.environ | {"HF_ENDPOINT": stand_in.url, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
        call = [sys.executable, "-c", CODE, str(path)]
        done = subprocess.run(call, capture_output=True, text=True, env=environment)
    if there:
        assert (done.stdout.strip(), path.read_bytes()) == (SHA256, FILE)
        assert [p.name for p in tmp_path.iterdir()] == ["far.pt.part"]
    else:
        assert done.stderr.startswith(f"UserError: {stand_in.url}/someone/teachers/resolve/main/deep/far.pt cannot be")


def test_a_source_on_the_hub_has_an_address() -> None:
    source = default_registry().get("teacher", "wrn-28-10-c10").sources[0]
    url = "https://huggingface.co/wzekai99/DM-Improves-AT/resolve/main/checkpoint/cifar10_linf_wrn28-10.pt"
    assert hub.address(source) == url
    with pytest.raises(UserError, match="hf:USER/REPO/FILE"):
        hub.address("hf:someone/teachers")


# ---- what is looked at before a download -------------------------------------------------------------------
def images_for_eval(root: Path) -> None:
    """Folders of grey images of 8x8 pixels in two classes."""
    for i in range(8):
        for part in ("train", "test"):
            file = root / part / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * i).save(file)


def damaged(root: Path) -> None:
    (root / "test" / "a" / "0.png").write_text("<html>")


@pytest.mark.parametrize(
    ("data", "call", "sentence"),
    [
        ("cifar10", ["--data-dir", "nowhere"], "there is no folder nowhere; give the one that holds CIFAR-10"),
        ("cifar10", ["--data-dir", "."], ". holds no CIFAR-10: looked for train-*.parquet"),
        ("svhn", ["--data-dir", "."], ". holds no SVHN: looked for train-*.parquet"),
        ("digits", ["--data-dir", "."], "digits comes with the package and takes no --data-dir"),
        ("imagefolder:d", ["--data-dir", "nowhere"], "there is no folder nowhere"),
        ("imagefolder:d", [], "0.png is no image that can be read"),
        ("digits", ["--out", "nowhere/x"], "there is no folder nowhere to hold --out"),
        ("digits", ["--n", "0"], "greater than or equal to 1"),
    ],
)
def test_eval_asks_for_no_teacher_where_something_else_is_wrong(
    data: str, call: list[str], sentence: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Each is found without a request. Where nothing is wrong the teacher is asked for."""
    images_for_eval(here / "d")
    registry = registry_with(
        Teacher("rn-18" if data != "digits" else "digits-net", None, data, sources=("http://x/y",))
    )
    monkeypatch.setattr("robustdistill.registry.default_registry", lambda: registry)
    with serving(servers.status(404)) as server:
        monkeypatch.setattr(hub, "address", lambda _: server.url)
        if not call:
            damaged(here / "d")
        with pytest.raises(SystemExit) as ended:
            main(["eval", "far", "--data", data, "--device", "cpu", *call])
        assert (ended.value.code, server.asked) == (4 if not call else 2, [])
        assert sentence in capsys.readouterr().err
        if data == "digits":
            with pytest.raises(SystemExit):
                main(["eval", "far", "--data", data, "--device", "cpu"])
            assert len(server.asked) == 1


def test_eval_builds_a_teachers_network_before_it_asks_for_the_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that cannot be for these images is refused first, and one that is here is read first."""
    registry = registry_with(Teacher("digits-net", None, "cifar10", {"width": 0}, sources=("http://x/y",)))
    monkeypatch.setattr("robustdistill.registry.default_registry", lambda: registry)
    monkeypatch.setattr("robustdistill.data.download.folder", lambda _: pytest.fail("images are asked for"))
    with pytest.raises(SystemExit) as ended:
        main(["eval", "far", "--device", "cpu"])
    assert ended.value.code == 2
    assert "width" in capsys.readouterr().err


# ---- what never downloads -----------------------------------------------------------------------------------
@pytest.mark.parametrize("flags", [["--eps", "8"], ["--device", "cuda:99"], ["--n", "0"], ["--attacks", "pgg"]])
def test_a_wrong_call_of_eval_is_refused_before_the_download(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for more, asks_for_weights in ((flags, False), ([], True)):
        with pytest.raises(SystemExit):
            main(["eval", "Zhang2019Theoretically", *more])
        assert ("HF_HUB_OFFLINE" in capsys.readouterr().err) == asks_for_weights


@pytest.mark.parametrize("flags", [["--print-spec"], ["--dry-run"], ["--dry-run", "--json"]])
def test_a_look_at_a_run_downloads_nothing(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    call = ["train", "--method", "mmard", "--teacher", "rn-18", "--student", "digits-net", "--device", "cpu", *flags]
    with pytest.raises(SystemExit) as ended:
        main(call)
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert ("11,173,962 parameters; downloaded by the run" in out) is (flags == ["--dry-run"])
    assert not place.place("rn-18", default_registry().get("teacher", "rn-18")).parent.exists()


def test_bench_takes_random_weights_in_the_place_of_a_download() -> None:
    from robustdistill.bench.standin import teachers_for
    from robustdistill.resolve import resolve

    registry = registry_with(replace(teacher("http://127.0.0.1:9/x"), params={"width": 5}))
    spec = resolve([{"method": "rslad", "teacher": "far"}], registry)
    [network] = teachers_for(spec, registry.get("dataset", "digits"), registry).values()
    assert network(torch.rand(2, 1, 8, 8)).isfinite().all()
