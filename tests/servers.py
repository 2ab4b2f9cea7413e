"""A web server on this machine that misbehaves as a test tells it to, one answer a request."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """Gives `answers` in turn, the last one again and again; `asked` holds path and Range of each request."""

    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def ranges(self) -> list[str | None]:
        return [part for _, part in self.asked]


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    """A server that answers at `url` while the block runs."""
    state = Server(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers.get("Range")))
            (state.answers.pop(0) if len(state.answers) > 1 else state.answers[0])(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/teacher.pt"
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()


def whole(content: bytes, *, tag: str = '"one"', kind: str = "application/octet-stream") -> Answer:
    """The file, or what is asked of it where that is of the same tag."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked, same = request.headers.get("Range"), request.headers.get("If-Range") == tag
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same else 0
        if start >= len(content) > 0 and asked:
            return status(416)(request)
        head(request, 206 if start else 200, len(content) - start, tag, kind)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        request.wfile.write(content[start:])
        return None

    return answer


def broken_off(content: bytes, after: int, *, tag: str = '"one"') -> Answer:
    """The first bytes of the file, though all are promised."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        head(request, 200, len(content), tag)
        request.end_headers()
        request.wfile.write(content[:after])

    return answer


def without_length(content: bytes) -> Answer:
    """Bytes, and no word on how many they should be."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(content)

    return answer


def wrong_part(content: bytes) -> Answer:
    """The end of the file, whatever was asked for."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        head(request, 206, 3, '"one"')
        request.send_header("Content-Range", f"bytes {len(content) - 3}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        request.wfile.write(content[-3:])

    return answer


def status(code: int, **headers: str) -> Answer:
    """No success."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def silent(until: Event) -> Answer:
    """Nothing at all, until a test is over."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        until.wait(10)

    return answer


def head(request: BaseHTTPRequestHandler, code: int, length: int, tag: str, kind: str = "") -> None:
    request.send_response(code)
    request.send_header("Content-Length", str(length))
    request.send_header("ETag", tag)
    request.send_header("Content-Type", kind or "application/octet-stream")
