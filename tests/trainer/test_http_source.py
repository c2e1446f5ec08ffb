"""A server that misbehaves for a while: what is tried again, and what that costs.

python -m pytest tests/trainer/test_http_source.py
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import MakeRun
from tests.support.fault_server import (
    FaultServer,
    bare,
    chunked,
    cut,
    drop,
    endless,
    flipped,
    hang,
    huge,
    not_http,
    problem,
    replaced,
    stall,
)
from tests.support.streams import rest_is_the_plans
from tests.trainer.conftest import HTTP_STEPS, open_plan
from trainer_client import BatchStream
from tst_data import Dataset
from tst_data.contract import wire
from tst_data.dataset.writer import write_dataset
from tst_data.errors import InvalidInputError, TSTError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

PASSING = {
    "500": problem(500, detail="oops"),
    "500 of a proxy": bare(500),
    "502": bare(502),
    "503 with Retry-After": problem(503, headers={"Retry-After": "0"}),
    "503 with a bad Retry-After": problem(503, headers={"Retry-After": "soon"}),
    "429": problem(429, headers={"Retry-After": "0"}),
    "408": problem(408),
    "cut in mid-body": cut,
    "dropped": drop,
    "not HTTP": not_http,
    "a flipped bit": replaced(flipped),
    "a shorter body": replaced(lambda body: body[: len(body) // 2]),
    "an empty body": replaced(lambda body: b""),
    "a page with status 200": bare(200),
    "a huge length": huge,
}


@pytest.mark.slow
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_passing_fault_costs_no_batch(server: FaultServer, fault: Any, prefetch: int) -> None:
    server.faults.extend([fault, fault])
    with BatchStream(server.url, prefetch=prefetch, timeout_seconds=30) as stream:
        assert rest_is_the_plans(stream, server.plan)
        assert stream.stats()["retries"] >= 1


@pytest.mark.parametrize("fault", [hang, stall])
def test_a_server_that_hangs_is_asked_again(server: FaultServer, fault: Any) -> None:
    server.faults.append(fault)
    with BatchStream(server.url, timeout_seconds=2) as stream:
        assert rest_is_the_plans(stream, server.plan)
        assert stream.stats()["retries"] == 1


def test_a_body_in_chunks_is_read(server: FaultServer) -> None:
    server.faults.extend([chunked] * 3)
    with BatchStream(server.url, timeout_seconds=10) as stream:
        assert rest_is_the_plans(stream, server.plan)
        assert stream.stats()["retries"] == 0


def test_a_body_without_an_end_is_cut_off(server: FaultServer) -> None:
    server.faults.append(endless)
    with BatchStream(server.url, timeout_seconds=10) as stream:
        assert rest_is_the_plans(stream, server.plan)


def test_a_restarted_server_is_waited_for(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=1, timeout_seconds=30) as stream:
        first = next(stream)
        server.stop()
        timer = threading.Timer(0.5, server.start)
        timer.start()
        try:
            steps = [first.step, *(batch.step for batch in stream)]
        finally:
            timer.join()
        assert steps == list(range(HTTP_STEPS))
        assert stream.stats()["retries"] >= 1


def test_a_server_that_is_not_up_yet_is_waited_for(server: FaultServer) -> None:
    server.stop()
    timer = threading.Timer(0.5, server.start)
    timer.start()
    try:
        with BatchStream(server.url, timeout_seconds=30) as stream:
            assert rest_is_the_plans(stream, server.plan)
    finally:
        timer.join()


@pytest.mark.parametrize("fault", [problem(503), drop, bare(200), replaced(lambda body: b"{}")])
def test_the_description_is_asked_for_again_as_batches_are(server: FaultServer, fault: Any) -> None:
    server.description_faults.append(fault)
    with BatchStream(server.url, timeout_seconds=10) as stream:
        assert stream.description == server.plan.describe()


def test_an_idle_connection_that_was_closed_is_not_a_failure(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=0, timeout_seconds=10) as stream:
        next(stream)
        server.stop()
        server.start()
        next(stream)
        assert stream.stats()["retries"] == 0


def test_connections_are_kept(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=2, timeout_seconds=10) as stream:
        list(stream)
    assert len(server.requests) == HTTP_STEPS + 1
    assert server.connections <= 3  # one for the description, one a thread


def test_retry_after_is_respected(server: FaultServer) -> None:
    server.faults.append(problem(503, headers={"Retry-After": "1"}))
    begin = time.monotonic()
    with BatchStream(server.url, prefetch=0, timeout_seconds=30) as stream:
        next(stream)
    assert time.monotonic() - begin >= 1


def test_nothing_is_asked_for_before_the_first_batch_nor_beyond_what_is_needed(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=2) as stream:
        assert server.batch_requests == []
        next(stream)
        list(stream)
    assert len(server.batch_requests) == HTTP_STEPS


def test_retries_are_logged_once_in_a_while(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    server.faults.extend([problem(503)] * 4)
    with BatchStream(server.url, prefetch=0) as stream:
        next(stream)
        assert stream.stats()["retries"] == 4
    assert caplog.text.count("trying again") == 1


def test_the_token_is_sent_and_never_shown(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults.extend([problem(503), problem(401, detail="who are you")])
    with BatchStream(server.url, token="hunter2", prefetch=0) as stream:
        with pytest.raises(InvalidInputError) as caught:
            next(stream)
        next(stream)
        shown = f"{caught.value} {stream.stats()} {stream!r} {stream.state_dict()} {caplog.text}"
    assert "hunter2" not in shown
    assert "trying again" in caplog.text
    assert [headers.get("Authorization") for _, headers in server.requests] == ["Bearer hunter2"] * 4


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "naïve", 7])
def test_a_token_that_cannot_be_sent_is_refused_and_not_repeated(server: FaultServer, token: Any) -> None:
    with pytest.raises(InvalidInputError, match="token: expected") as caught:
        BatchStream(server.url, token=token)
    assert not token or str(token) not in str(caught.value)


@pytest.mark.parametrize("fault", [hang, stall, problem(503, headers={"Retry-After": "3600"})])
def test_close_does_not_wait_for_the_server(server: FaultServer, fault: Any) -> None:
    server.faults.extend([fault] * 10)
    stream = BatchStream(server.url, prefetch=3)

    def take() -> None:
        with pytest.raises(TSTError):
            next(stream)

    taker = threading.Thread(target=take)
    taker.start()
    while not server.batch_requests:
        time.sleep(0.01)
    begin = time.monotonic()
    stream.close()
    taker.join(30)
    assert not taker.is_alive()
    assert time.monotonic() - begin < 30  # of the 75 that a try may take, or the hour that was asked for


def test_two_byte_and_four_byte_tokens(tiny_dataset: Dataset, make_run: MakeRun, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    documents = [random.integers(0, 100_000, 500) for _ in range(20)]
    with (
        write_dataset(tmp_path / "wide", documents, vocabulary_size=100_001, end_of_text_id=100_000) as wide,
        open_plan(wide, make_run) as plan,
        FaultServer(plan) as server,
        BatchStream(server.url) as stream,
    ):
        assert stream.description.dtype == "uint32"
        batch = next(stream)
        assert batch.windows.dtype.itemsize == 4
        assert int(batch.inputs.max()) > 1 << 16
        assert rest_is_the_plans(stream, plan)


def test_the_windows_are_a_view_of_what_was_received(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=0) as stream:
        batch = next(stream)
        storage = batch.windows.untyped_storage()
        assert storage.nbytes() == len(wire.encode(server.plan.read_batch(0)))
        begin = batch.first_token.ctypes.data - storage.data_ptr()
        assert 0 <= begin < storage.nbytes()
