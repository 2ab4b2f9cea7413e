"""A stand-in of the Hugging Face hub on this machine: what its library asks for when it downloads a file."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, by "repository/file"; `sent` takes the place of a file's bytes but not of its sha256."""

    files: dict[str, bytes]
    sent: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> bytes:
        """Writes the head of the answer to `request`; returns its body."""
        repo, _, rest = request.path.removeprefix("/datasets/").partition("/resolve/")
        name = f"{repo}/{rest.partition('/')[2]}"
        self.asked.append(f"{request.command} {name}")
        found = self.files.get(name)
        body = b"" if found is None else self.sent.get(name, found)
        request.send_response(404 if found is None else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("X-Repo-Commit", COMMIT)
        if found is not None:
            sha256 = hashlib.sha256(found).hexdigest()
            for key, value in {"ETag": '"of-the-server"', "X-Linked-Etag": f'"{sha256}"'}.items():
                request.send_header(key, value)
            request.send_header("X-Linked-Size", str(len(found)))
        request.end_headers()
        return body


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub that answers at `url` while the block runs."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub.answer(self)

        def do_GET(self) -> None:
            self.wfile.write(hub.answer(self))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
