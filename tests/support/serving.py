"""Running a real server for the tests: `with running(path) as server:`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server process that said it is ready."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ask(self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())

    def workers(self) -> list[int]:
        """Process ids of the worker processes (not of the resource tracker, which serves nothing)."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in command_line(int(child))]


def command_line(pid: int) -> bytes:
    """What a process was started with; empty when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "service.cli", *map(str, arguments)]


@contextlib.contextmanager
def running(*arguments: Any, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A server, on a free port unless told otherwise, ended whatever happens."""
    port = () if "--port" in arguments else ("--port", 0)
    process = subprocess.Popen(
        command(*arguments, *port, "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], DEADLINE_SECONDS)
        line = process.stdout.readline() if readable else ""
        assert line, f"the server did not get ready, exit code {process.poll()}"
        yield Server(process, json.loads(line))
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def refused(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS)


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` gives something true, and give that; fails after a minute."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.05)


def write_big_run(folder: Path) -> Path:
    """A run whose batches of 32 MB are more than the socket buffers between server and client hold."""
    import numpy as np

    from tst_data.dataset.writer import write_dataset

    tokens = np.random.default_rng(3).integers(0, 65000, 4_000_000)
    with write_dataset(folder / "big", [tokens], vocabulary_size=65536, end_of_text_id=65535, dtype="uint32"):
        pass
    path = folder / "big.yaml"
    path.write_text(
        "name: test\ndatasets: [{path: big}]\nsequence_length: 4096\nbatch_size: 2048\n"
        "phases: [{bag_size: 1, steps: 3}]\n"
    )
    return path
