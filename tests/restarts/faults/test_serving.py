"""Serving: a response is the batch of its fingerprint or a problem that says what it is, and the server stays up.

One server over a run and a copy of the dataset for each test. Data that is damaged is a 500 that clients do not retry;
data that cannot be reached now is a 503 with Retry-After.
"""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.restarts.faults.conftest import Data, copy_of, replacement_of
from tests.support.conversion import Outcome, check_refused
from tests.support.faults import flip_byte, no_descriptors, no_permission, small_disk, truncated
from tests.support.forked import bound_by_permissions
from tests.support.serving import Response, Server, check_problem, eventually, read_response, refused, running
from tst_data.contract.wire import decode
from tst_data.dataset.reader import Dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


NAMES = ["killed", "replaced", "cut", "flipped", "flipped-later", "descriptors", "permission", "two-servers"]


@pytest.fixture(scope="module")
def runs(folder: Path, tiny_dataset: Dataset) -> dict[str, Data]:
    return {name: copy_of(tiny_dataset, folder, name) for name in NAMES}


@pytest.fixture(scope="module")
def server(folder: Path, runs: dict[str, Data]) -> Iterator[Server]:
    with running(folder, prefix=bound_by_permissions()) as server:
        yield server


def path(run: str, step: int) -> str:
    return f"/v1/runs/{run}/batches/{step}"


def serves(server: Server, run: str, data: Data, *steps: int) -> bool:
    """Whether these steps (all that are compared, if none is named) are served with the right tokens."""
    responses = {step: server.ask(path(run, step)) for step in steps or data.expected}
    assert {response.status for response in responses.values()} == {200}
    return all(decode(response.body).header.checksum == data.expected[step] for step, response in responses.items())


def damaged(response: Response, at: str, *parts: str) -> None:
    problem = check_problem(response, 500, at)
    assert problem["type"].endswith("/damaged-data")
    for part in parts:
        assert part in problem["detail"]


def unavailable(response: Response, at: str, *parts: str) -> None:
    problem = check_problem(response, 503, at)
    assert int(response.headers["retry-after"]) >= 1
    for part in parts:
        assert part in problem["detail"]


def test_kill_9(server: Server, runs: dict[str, Data]) -> None:
    """Same: the worker is replaced and serves the same batches."""
    data = runs["killed"]
    assert serves(server, "killed", data, 0)
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: server.workers() not in ([], [worker]))
    assert serves(server, "killed", data)


def test_disk_full(folder: Path, tmp_path: Path, tiny_dataset: Dataset) -> None:
    """Same: serving needs no space, also where the disk for temporary files is full."""
    with small_disk(tmp_path / "disk", 8192) as disk:
        data = copy_of(tiny_dataset, disk.folder)
        with running(data.run, environment={"TMPDIR": str(disk.folder)}) as server:
            assert serves(server, "test", data, 0)
            disk.fill()
            (worker,) = server.workers()
            assert serves(server, "test", data)
            assert server.ask("/v1/runs/other").status == 404
            assert server.ask("/metrics").status == 200
            assert server.workers() == [worker]


def test_file_replaced(
    server: Server, folder: Path, runs: dict[str, Data], tiny_documents: list[Any], tmp_path: Path
) -> None:
    """Same: the open run serves its own tokens, though the folder is another dataset now."""
    data = runs["replaced"]
    assert serves(server, "replaced", data, 0)
    replacement = replacement_of(tiny_documents, tmp_path / "replacement")
    data.dataset.rename(tmp_path / "moved")
    replacement.rename(data.dataset)
    assert serves(server, "replaced", data)


def test_file_truncated(server: Server, runs: dict[str, Data]) -> None:
    """Refused: steps of the shard are a 500 with both sizes, other steps are served. Restored, so are they."""
    data = runs["cut"]
    assert serves(server, "cut", data, 0)
    size = data.used.stat().st_size
    with truncated(data.used, size - 10):
        damaged(server.ask(path("cut", 1)), path("cut", 1), data.used.name, str(size), str(size - 10))
        assert serves(server, "cut", data, 100)
    assert serves(server, "cut", data)


def test_byte_flipped_before_use(server: Server, runs: dict[str, Data]) -> None:
    """Refused: steps of the piece are a 500 before a byte of it is sent, other steps are served."""
    data = runs["flipped"]
    flip_byte(data.other, data.other.stat().st_size - 100)
    damaged(server.ask(path("flipped", 100)), path("flipped", 100), data.other.name, "piece 0")
    assert serves(server, "flipped", data, 0, 1)
    flip_byte(data.other, data.other.stat().st_size - 100)
    assert serves(server, "flipped", data)


def test_byte_flipped_after_use(server: Server, runs: dict[str, Data]) -> None:
    """Refused: also in a piece that was served before, and with the file's time restored."""
    data = runs["flipped-later"]
    assert serves(server, "flipped-later", data, 0)
    flip_byte(data.used, data.place)
    damaged(server.ask(path("flipped-later", 1)), path("flipped-later", 1), data.used.name, "piece 0")
    assert serves(server, "flipped-later", data, 100)
    flip_byte(data.used, data.place)
    assert serves(server, "flipped-later", data)


def test_descriptors_exhausted(server: Server, runs: dict[str, Data]) -> None:
    """Unavailable: a 503 with Retry-After. The same worker serves the step when files can be opened again."""
    data = runs["descriptors"]
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", path("descriptors", 0))  # connected before the limit
        assert read_response(connection.getresponse()).status == 200
        workers = server.workers()
        with no_descriptors(*workers):
            connection.request("GET", path("descriptors", 100))
            response = read_response(connection.getresponse())
        unavailable(response, path("descriptors", 100), data.other.name)
    assert serves(server, "descriptors", data)
    assert server.workers() == workers


def test_permission_lost(server: Server, runs: dict[str, Data]) -> None:
    """Unavailable: a 503 with Retry-After. The step is served when the file may be read again."""
    data = runs["permission"]
    with no_permission(data.other):
        unavailable(server.ask(path("permission", 100)), path("permission", 100), data.other.name)
        assert serves(server, "permission", data, 0)
    assert serves(server, "permission", data)


def test_two_writers_at_once(server: Server, folder: Path, runs: dict[str, Data]) -> None:
    """Same: two servers on the same data send the same bytes. A second one on the same port is refused."""
    data = runs["two-servers"]
    with running(data.run) as second:
        for step in data.expected:
            one, two = (each.ask(path("two-servers", step)) for each in (server, second))
            assert one.status == two.status == 200
            assert one.body == two.body
            assert one.headers["etag"] == two.headers["etag"]
    ended = refused(data.run, "--port", server.port)
    check_refused(Outcome(ended.returncode, ended.stdout, ended.stderr), str(server.port))
    assert serves(server, "two-servers", data)
