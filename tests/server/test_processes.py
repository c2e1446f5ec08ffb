"""The end of worker processes and of servers: real processes, real signals.

python -m pytest tests/server/test_processes.py
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeRun
from tests.server.conftest import BATCHES
from tests.support.faults import no_descriptors
from tests.support.serving import Server, command_line, eventually, running, write_big_run
from tst_data.contract.wire import decode
from tst_data.dataset.reader import Dataset

pytestmark = pytest.mark.slow


@pytest.fixture
def run_file(make_run: MakeRun, tiny_dataset: Dataset) -> Path:
    return make_run(tiny_dataset)


@contextlib.contextmanager
def begun(server: Server, step: int) -> Iterator[http.client.HTTPResponse]:
    """A batch whose header the client has read, and nothing more yet."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", f"{BATCHES}/{step}")
        yield connection.getresponse()


def responds(server: Server) -> bool:
    try:
        return server.ask(f"{BATCHES}/0").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV])
def test_a_worker_that_dies_is_replaced(run_file: Path, number: signal.Signals) -> None:
    with running(run_file) as server:
        [worker] = server.workers()
        before = server.ask(f"{BATCHES}/1").body
        os.kill(worker, number)
        [replacement] = eventually(lambda: [pid for pid in server.workers() if pid != worker])
        eventually(lambda: responds(server))
        assert server.ask(f"{BATCHES}/1").body == before
        assert replacement in server.workers()
        assert server.process.poll() is None
        metrics = server.ask("/metrics").body.decode()
        assert 'tst_last_step{run="test"} 1.0' in metrics


def test_a_worker_that_cannot_be_started_is_tried_again(run_file: Path) -> None:
    with running(run_file) as server:
        [worker] = server.workers()
        with no_descriptors(server.process.pid, limit=4):
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: not server.workers())
            time.sleep(0.5)
            assert server.process.poll() is None
        eventually(lambda: responds(server))
        assert server.workers() not in ([], [worker])


def test_several_workers_share_the_port_and_all_are_replaced(run_file: Path) -> None:
    with running(run_file, "--workers", 2) as server:
        first = server.workers()
        assert len(first) == 2
        for worker in first:
            os.kill(worker, signal.SIGKILL)
        eventually(lambda: len(server.workers()) == 2 and not set(first) & set(server.workers()))
        eventually(lambda: responds(server))


def test_workers_end_with_a_killed_supervisor(run_file: Path, tmp_path: Path) -> None:
    with running(run_file, "--workers", 2, environment={"TMPDIR": str(tmp_path)}) as server:
        workers = server.workers()
        assert len(workers) == 2
        assert all(command_line(worker) for worker in workers)
        server.process.kill()
        server.process.wait()
        eventually(lambda: not any(command_line(worker) for worker in workers))
        eventually(lambda: can_bind(server.port))
        eventually(lambda: not list(tmp_path.glob("tst-serve-*")))


def test_the_folder_of_a_server_killed_with_its_workers_is_removed_by_the_next(run_file: Path, tmp_path: Path) -> None:
    with running(run_file, environment={"TMPDIR": str(tmp_path)}) as server:
        workers = server.workers()
        for pid in (*workers, server.process.pid):  # stopped first, so that none can clean up after the other
            os.kill(pid, signal.SIGSTOP)
        for pid in (*workers, server.process.pid):
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
        [left] = tmp_path.glob("tst-serve-*")
    with running(run_file, environment={"TMPDIR": str(tmp_path)}) as server:
        assert not left.exists()
        [own] = tmp_path.glob("tst-serve-*")
        with running(run_file, environment={"TMPDIR": str(tmp_path)}):
            assert own.exists()
        assert server.ask("/metrics").status == 200
    assert not list(tmp_path.glob("tst-serve-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_the_transfer_finish(tmp_path: Path, number: signal.Signals) -> None:
    with (
        running(write_big_run(tmp_path), environment={"TMPDIR": str(tmp_path)}) as server,
        begun(server, 0) as response,
    ):
        server.process.send_signal(number)
        eventually(lambda: not accepts(server.port))
        assert server.process.poll() is None
        decode(response.read())
        assert server.process.wait(60) == 0
        assert not list(tmp_path.glob("tst-serve-*"))


def can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    with running(write_big_run(tmp_path), "--grace-seconds", 1) as server, begun(server, 0):
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_a_killed_server_can_be_started_again_at_once(run_file: Path) -> None:
    with running(run_file) as server:
        body = server.ask(f"{BATCHES}/2").body
        server.process.kill()
        server.process.wait()
        with running(run_file, "--port", server.port) as again:
            assert again.port == server.port
            assert again.ask(f"{BATCHES}/2").body == body
