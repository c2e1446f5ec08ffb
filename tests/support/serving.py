"""The one launcher of `tst-serve` for all tests: `with running(path) as server:`.

The server runs as a user runs it: a process with workers, on a port of its own. At the end of the block nothing of it
is left, also when the test failed or killed parts of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tst_data.dataset.writer import write_dataset

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Response:
    """A response that was read to its end. The names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server process that has said it is ready, with the line in which it said so."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def run_url(self) -> str:
        """The URL of its first run: what `BatchStream` takes."""
        return str(self.ready["runs"][0]["url"])

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ask(self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            return read_response(connection.getresponse())

    def workers(self) -> list[int]:
        """Process ids of the worker processes (without the resource tracker, which serves nothing)."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in command_line(int(child))]

    def kill(self) -> None:
        """`kill -9` of the supervisor and its workers at the same time."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)


def read_response(response: http.client.HTTPResponse) -> Response:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Response(response.status, headers, response.read())


def check_problem(response: Response, status: int, path: str) -> dict[str, Any]:
    """The problem document of a response, which must be one as RFC 9457 describes it."""
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    problem: dict[str, Any] = response.json
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert problem["status"] == status
    assert problem["instance"] == path.split("?")[0]
    assert isinstance(problem["detail"], str)
    assert problem["detail"]
    assert "\n" not in problem["detail"]
    return problem


def command_line(pid: int) -> bytes:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "service.cli", *map(str, arguments)]


@contextlib.contextmanager
def running(*arguments: Any, environment: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> Iterator[Server]:
    """A server with these arguments, on a free port if they name none. Its command begins with `prefix`."""
    port = () if "--port" in arguments else ("--port", 0)
    process = subprocess.Popen(
        [*prefix, *command(*arguments, *port, "--json")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # so that `Server.kill` reaches the workers too
    )
    assert process.stdout is not None
    try:
        readable, _, _ = select.select([process.stdout], [], [], DEADLINE_SECONDS)
        line = process.stdout.readline() if readable else ""
        assert line, f"the server did not get ready, exit code {process.poll()}"
        yield Server(process, json.loads(line))
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(DEADLINE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def refused(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """The end of a server that cannot start."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS)


def eventually(condition: Callable[[], Any]) -> Any:
    """The first true value of `condition`; fails when there is none within a minute."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.05)


def write_big_run(folder: Path) -> Path:
    """A run whose batches of 32 MB are larger than the socket buffers between server and client."""
    tokens = np.random.default_rng(3).integers(0, 65000, 4_000_000)
    with write_dataset(folder / "big", [tokens], vocabulary_size=65536, end_of_text_id=65535, dtype="uint32"):
        pass
    path = folder / "big.yaml"
    path.write_text(
        "name: test\ndatasets: [{path: big}]\nsequence_length: 4096\nbatch_size: 2048\n"
        "phases: [{bag_size: 1, steps: 3}]\n"
    )
    return path
