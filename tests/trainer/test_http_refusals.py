"""A server that cannot help: what is raised, how soon, and in which words.

python -m pytest tests/trainer/test_http_refusals.py
"""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from tests.conftest import MakeRun
from tests.support.fault_server import FaultServer, bare, flipped, hang, problem, replaced
from tests.support.streams import one_line
from tests.trainer.conftest import HTTP_STEPS, open_plan
from trainer_client import BatchStream
from trainer_client.stream.http_source import NUM_DAMAGED_TRIES
from tst_data import Dataset
from tst_data.errors import (
    DamagedDataError,
    ForeignDataError,
    InvalidInputError,
    NotFoundError,
    TSTError,
    UnavailableError,
)

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_server_that_never_comes_back_is_named_after_the_deadline(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=2, timeout_seconds=1) as stream:
        next(stream)
        server.stop()
        try:
            with pytest.raises(UnavailableError) as caught:
                list(stream)  # what was fetched ahead, then the error
            step = stream.state_dict()["next_step"]
            one_line(caught.value, f"step {step} ", server.url, "within 1 s", "ConnectionRefusedError")
        finally:
            server.start()
        assert [batch.step for batch in stream] == list(range(step, HTTP_STEPS))  # it continues when asked again


def test_a_server_that_never_comes_up_is_named(server: FaultServer) -> None:
    server.stop()
    try:
        with pytest.raises(UnavailableError) as caught:
            BatchStream(server.url, timeout_seconds=0.5)
        one_line(caught.value, "the description", server.url, "ConnectionRefusedError")
    finally:
        server.start()


def test_the_last_error_of_a_busy_server_is_reported(server: FaultServer) -> None:
    server.faults.extend([problem(503, detail="too many requests in flight")] * 200)
    with BatchStream(server.url, prefetch=0, timeout_seconds=1) as stream, pytest.raises(UnavailableError) as caught:
        next(stream)
    one_line(caught.value, "step 0 ", "503", "too many requests in flight")


def test_a_long_retry_after_does_not_outlast_the_deadline(server: FaultServer) -> None:
    server.faults.extend([problem(503, headers={"Retry-After": "3600"})] * 50)
    begin = time.monotonic()
    with BatchStream(server.url, prefetch=0, timeout_seconds=1) as stream, pytest.raises(UnavailableError):
        next(stream)
    assert time.monotonic() - begin < 20


def test_a_server_that_always_hangs_is_given_up(server: FaultServer) -> None:
    server.faults.extend([hang] * 50)
    with BatchStream(server.url, prefetch=1, timeout_seconds=1) as stream, pytest.raises(UnavailableError) as caught:
        next(stream)
    one_line(caught.value, "step 0 ", "timed out")


def test_damage_on_every_transfer_is_reported_after_a_few_tries(server: FaultServer) -> None:
    server.faults.extend([replaced(flipped)] * 50)
    with BatchStream(server.url, prefetch=0, timeout_seconds=30) as stream, pytest.raises(DamagedDataError) as caught:
        next(stream)
    one_line(caught.value, "step 0 ", server.url, "checksum")
    assert len(server.batch_requests) == NUM_DAMAGED_TRIES


def test_damaged_data_of_the_server_is_believed_at_once(server: FaultServer) -> None:
    server.faults.append(
        problem(500, kind="https://example.org/problems/damaged-data", detail="shard 7, piece 3 of data/wiki")
    )
    with BatchStream(server.url, prefetch=0) as stream, pytest.raises(DamagedDataError) as caught:
        next(stream)
    one_line(caught.value, "step 0 ", server.url, "shard 7, piece 3")
    assert len(server.batch_requests) == 1


@pytest.mark.parametrize(
    ("fault", "error", "part"),
    [
        (problem(404, detail="run 'test': has no step 0"), NotFoundError, "has no step 0"),
        (problem(422, detail="world_size 3 does not divide"), InvalidInputError, "does not divide"),
        (problem(400, detail="multi\nline  detail"), InvalidInputError, "multi line detail"),
        (problem(400, detail="a\x1b[31m\x9b\u202eb"), InvalidInputError, r"a\x1b[31m\u009b\u202eb"),
        (problem(400, detail="x" * 100_000), InvalidInputError, "xxx... ("),
        (problem(401), InvalidInputError, "token"),
        (problem(403), InvalidInputError, "token"),
        (bare(418), InvalidInputError, "418"),
        (bare(302, Location="http://elsewhere/v1/runs/x"), InvalidInputError, "http://elsewhere/v1/runs/x"),
        (bare(404, b"[" * 100_000), NotFoundError, "404"),
    ],
)
def test_a_refusal_is_reported_at_once(server: FaultServer, fault: Any, error: type[TSTError], part: str) -> None:
    server.faults.append(fault)
    with BatchStream(server.url, prefetch=0) as stream, pytest.raises(error) as caught:
        next(stream)
    one_line(caught.value, "step 0 ", server.url, part)
    assert len(server.batch_requests) == 1


def test_an_unknown_run_is_reported_at_construction(server: FaultServer) -> None:
    with pytest.raises(NotFoundError, match="other"):
        BatchStream(server.url.replace("/test", "/other"))


def test_an_error_comes_after_the_batches_before_it(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=1) as stream:
        server.faults.extend([replaced(lambda body: body)] * 2)
        server.faults.append(problem(422, detail="no"))
        assert [next(stream).step, next(stream).step] == [0, 1]
        with pytest.raises(InvalidInputError, match="step 2 "):
            next(stream)
        assert stream.state_dict()["next_step"] == 2
        assert [batch.step for batch in stream] == [2, 3, 4, 5]


def test_a_server_that_begins_to_serve_other_data_is_refused(
    server: FaultServer, tiny_dataset: Dataset, make_run: MakeRun
) -> None:
    with BatchStream(server.url, prefetch=0) as stream, open_plan(tiny_dataset, make_run, seed=99) as other:
        expected = stream.description.fingerprint
        next(stream)
        server.plan = other
        with pytest.raises(ForeignDataError) as caught:
            next(stream)
        one_line(caught.value, "step 1 ", server.url, expected, other.fingerprint)
        # A proxy may keep what the server gave before: what does not fit is requested again without the
        # proxy's copy.
        asked = [headers.get("Cache-Control") for path, headers in server.requests if "/batches/1?" in path]
        assert asked == [None, "no-cache", "no-cache"]
        assert stream.state_dict()["next_step"] == 1


def test_a_server_without_tls_is_named(server: FaultServer) -> None:
    with pytest.raises(UnavailableError, match="SSL"):
        BatchStream(server.url.replace("http://", "https://"), timeout_seconds=0.5)


def test_a_port_without_a_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/runs/x"
        with pytest.raises(UnavailableError):
            BatchStream(url, timeout_seconds=0.3)
