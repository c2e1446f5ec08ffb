"""A small batch server on a real socket that misbehaves on demand.

It responds as the contract says, from a `Plan`. Each request first takes a fault from `faults` (batches) or
`description_faults`, if there is one. `stop` closes the port and `start` opens it again.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tst_data import Plan
from tst_data.contract import wire
from tst_data.errors import TSTError

Fault = Callable[["Handler", bytes], None]


class FaultServer:
    """Serves `plan` at `url`; a context manager."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.faults: deque[Fault] = deque()
        self.description_faults: deque[Fault] = deque()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.released = threading.Event()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1/runs/{self.plan.run.name}"

    @property
    def batch_requests(self) -> list[str]:
        return [path for path, _ in self.requests if "/batches/" in path]

    def start(self) -> None:
        self.released.clear()
        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._server.owner = self
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections, and close those that are open."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: FaultServer

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        self.owner.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that closes the connection is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        owner = self.server.owner
        owner.requests.append((self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        base = f"/v1/runs/{owner.plan.run.name}"
        if parts.path == base:
            body = owner.plan.describe().model_dump_json().encode()
            self._respond(owner.description_faults, "application/json", body)
            return
        if not parts.path.startswith(f"{base}/batches/"):
            problem(404, detail=f"no {parts.path}")(self, b"")
            return
        query = {key: int(values[0]) for key, values in parse_qs(parts.query).items()}
        try:
            batch = owner.plan.read_batch(int(parts.path.rsplit("/", 1)[1]), **query)
        except TSTError as error:
            problem(error.status, detail=str(error))(self, b"")
            return
        self._respond(owner.faults, wire.CONTENT_TYPE, bytes(wire.encode(batch)))

    def _respond(self, faults: deque[Fault], content_type: str, body: bytes) -> None:
        try:
            fault = faults.popleft()
        except IndexError:
            self.send(200, body, {"Content-Type": content_type})
        else:
            fault(self, body)

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


ARROW = {"Content-Type": wire.CONTENT_TYPE}


def problem(status: int, *, kind: str = "about:blank", detail: str = "no", headers: Any = None) -> Fault:
    """A problem document."""
    document = json.dumps({"type": kind, "title": "x", "status": status, "detail": detail}).encode()

    def fault(handler: Handler, body: bytes) -> None:
        handler.send(status, document, {"Content-Type": "application/problem+json", **(headers or {})})

    return fault


def bare(status: int, body: bytes = b"<html>proxy</html>", **headers: str) -> Fault:
    """A response that our server never gives."""
    return lambda handler, _: handler.send(status, body, {"Content-Type": "text/html", **headers})


def replaced(make: Callable[[bytes], bytes]) -> Fault:
    """A well-formed response with another body."""
    return lambda handler, body: handler.send(200, make(body), ARROW)


def cut(handler: Handler, body: bytes) -> None:
    """Half of the body, then the end of the connection."""
    handler.send(200, body[: len(body) // 2], {"Content-Length": str(len(body)), **ARROW})
    handler.close_connection = True


def drop(handler: Handler, body: bytes) -> None:
    """The end of the connection instead of a response."""
    handler.close_connection = True


def hang(handler: Handler, body: bytes) -> None:
    """No response until the server is stopped."""
    handler.server.owner.released.wait(60)
    handler.close_connection = True


def stall(handler: Handler, body: bytes) -> None:
    """Half of the body, then nothing until the server is stopped."""
    handler.send(200, body[: len(body) // 2], {"Content-Length": str(len(body)), **ARROW})
    handler.wfile.flush()
    hang(handler, body)


def huge(handler: Handler, body: bytes) -> None:
    """A length that no batch of the run has."""
    handler.send(200, body, {"Content-Length": str(1 << 40), **ARROW})
    handler.close_connection = True


def chunked(handler: Handler, body: bytes) -> None:
    """The right body in chunks, without a length, as some proxies send it."""
    handler.send_response(200)
    for name, value in {"Transfer-Encoding": "chunked", **ARROW}.items():
        handler.send_header(name, value)
    handler.end_headers()
    for begin in range(0, len(body), 1000):
        piece = body[begin : begin + 1000]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def endless(handler: Handler, body: bytes) -> None:
    """Chunks without an end."""
    handler.send_response(200)
    for name, value in {"Transfer-Encoding": "chunked", **ARROW}.items():
        handler.send_header(name, value)
    handler.end_headers()
    piece = bytes(1 << 16)
    while not handler.server.owner.released.is_set():
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def not_http(handler: Handler, body: bytes) -> None:
    """Bytes of another protocol."""
    handler.wfile.write(b"220 mail ready\r\n")
    handler.close_connection = True


def flipped(body: bytes) -> bytes:
    """The body with one bit of a token changed."""
    damaged = bytearray(body)
    wire.decode(damaged).windows[0, 0] ^= 1  # a view of the body
    return bytes(damaged)
