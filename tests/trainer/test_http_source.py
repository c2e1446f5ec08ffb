"""BatchStream against a server that misbehaves: what is tried again, what is refused, and what is said.

python -m pytest tests/trainer/test_http_source.py
"""

from __future__ import annotations

import datetime
import email.utils
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from trainer_client import BatchStream
from trainer_client.stream.http_responses import retry_after_seconds
from trainer_client.stream.http_source import NUM_DAMAGED_TRIES
from tst_data import Dataset, Plan, load_run
from tst_data.contract import wire
from tst_data.errors import (
    DamagedDataError,
    ForeignDataError,
    InvalidInputError,
    NotFoundError,
    TSTError,
    UnavailableError,
)

NUM_STEPS = 6


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Dataset) -> Dataset:
    return tiny_dataset


def open_plan(dataset: Dataset, make_run: Callable[..., Any], **settings: Any) -> Plan:
    phases = [{"bag_size": 4, "steps": 3}, {"bag_size": 1, "steps": 3}]
    return Plan(load_run(make_run(dataset, **{"batch_size": 8, "phases": phases, **settings})))


@pytest.fixture
def server(dataset: Dataset, make_run: Callable[..., Any]) -> Iterator[FaultServer]:
    with open_plan(dataset, make_run) as plan, FaultServer(plan) as server:
        yield server


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [thread for thread in threading.enumerate() if thread.name.startswith("batch-prefetch")]
    assert left == []


def all_equal_the_plan(stream: BatchStream, server: FaultServer) -> bool:
    batches = list(stream)
    return [batch.step for batch in batches] == list(range(NUM_STEPS)) and all(
        np.array_equal(batch.windows.numpy(), server.plan.read_batch(batch.step).windows) for batch in batches
    )


def one_line(error: BaseException, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    for part in parts:
        assert part in text


# Faults that pass


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


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_passing_fault_costs_no_batch(server: FaultServer, fault: Any, prefetch: int) -> None:
    server.faults.extend([fault, fault])
    with BatchStream(server.url, prefetch=prefetch, timeout_seconds=30) as stream:
        assert all_equal_the_plan(stream, server)
        assert stream.stats()["retries"] >= 1


@pytest.mark.parametrize("fault", [hang, stall])
def test_a_server_that_hangs_is_asked_again(server: FaultServer, fault: Any) -> None:
    server.faults.append(fault)
    with BatchStream(server.url, timeout_seconds=2) as stream:
        assert all_equal_the_plan(stream, server)
        assert stream.stats()["retries"] == 1


def test_a_body_in_chunks_is_read(server: FaultServer) -> None:
    server.faults.extend([chunked] * 3)
    with BatchStream(server.url, timeout_seconds=10) as stream:
        assert all_equal_the_plan(stream, server)
        assert stream.stats()["retries"] == 0


def test_a_body_without_an_end_is_cut_off(server: FaultServer) -> None:
    server.faults.append(endless)
    with BatchStream(server.url, timeout_seconds=10) as stream:
        assert all_equal_the_plan(stream, server)


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
        assert steps == list(range(NUM_STEPS))
        assert stream.stats()["retries"] >= 1


def test_a_server_that_is_not_up_yet_is_waited_for(server: FaultServer) -> None:
    server.stop()
    timer = threading.Timer(0.5, server.start)
    timer.start()
    try:
        with BatchStream(server.url, timeout_seconds=30) as stream:
            assert all_equal_the_plan(stream, server)
    finally:
        timer.join()


@pytest.mark.parametrize("fault", [problem(503), drop, bare(200), replaced(lambda body: b"{}")])
def test_the_description_is_asked_for_again_as_batches_are(server: FaultServer, fault: Any) -> None:
    server.description_faults.append(fault)
    with BatchStream(server.url, timeout_seconds=10) as stream:
        assert stream.description == server.plan.describe()


def test_an_idle_connection_that_was_closed_is_no_failure(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=0, timeout_seconds=10) as stream:
        next(stream)
        server.stop()
        server.start()
        next(stream)
        assert stream.stats()["retries"] == 0


def test_connections_are_kept(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=2, timeout_seconds=10) as stream:
        list(stream)
    assert len(server.requests) == NUM_STEPS + 1
    assert server.connections <= 3  # one for the description, one a thread


def test_retry_after_is_honoured(server: FaultServer) -> None:
    server.faults.append(problem(503, headers={"Retry-After": "1"}))
    begin = time.monotonic()
    with BatchStream(server.url, prefetch=0, timeout_seconds=30) as stream:
        next(stream)
    assert time.monotonic() - begin >= 1


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    assert retry_after_seconds("7") == 7
    assert 50 < (retry_after_seconds(email.utils.format_datetime(later, usegmt=True)) or 0) <= 60
    assert retry_after_seconds("Mon, 01 Jan 2001 00:00:00 GMT") == 0
    assert retry_after_seconds("Mon, 01 Jan 2001 00:00:00 -0000") == 0
    assert retry_after_seconds("later") is None
    assert retry_after_seconds(None) is None


# Faults that stay


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
        assert [batch.step for batch in stream] == list(range(step, NUM_STEPS))  # it goes on when asked again


def test_a_server_that_never_comes_up_is_named(server: FaultServer) -> None:
    server.stop()
    try:
        with pytest.raises(UnavailableError) as caught:
            BatchStream(server.url, timeout_seconds=0.5)
        one_line(caught.value, "the description", server.url, "ConnectionRefusedError")
    finally:
        server.start()


def test_the_last_error_of_a_busy_server_is_told(server: FaultServer) -> None:
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


def test_damage_on_every_transfer_is_told_after_a_few_tries(server: FaultServer) -> None:
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
        (problem(404, detail="run 'test' has no step 0"), NotFoundError, "has no step 0"),
        (problem(422, detail="world_size 3 does not divide"), InvalidInputError, "does not divide"),
        (problem(400, detail="multi\nline  detail"), InvalidInputError, "multi line detail"),
        (problem(401), InvalidInputError, "token"),
        (problem(403), InvalidInputError, "token"),
        (bare(418), InvalidInputError, "418"),
        (bare(302, Location="http://elsewhere/v1/runs/x"), InvalidInputError, "http://elsewhere/v1/runs/x"),
        (bare(404, b"[" * 100_000), NotFoundError, "404"),
    ],
)
def test_a_refusal_is_told_at_once(server: FaultServer, fault: Any, error: type[TSTError], part: str) -> None:
    server.faults.append(fault)
    with BatchStream(server.url, prefetch=0) as stream, pytest.raises(error) as caught:
        next(stream)
    one_line(caught.value, "step 0 ", server.url, part)
    assert len(server.batch_requests) == 1


def test_an_unknown_run_is_told_at_construction(server: FaultServer) -> None:
    with pytest.raises(NotFoundError, match="other"):
        BatchStream(server.url.replace("/test", "/other"))


def test_an_error_comes_behind_the_batches_before_it(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=1) as stream:
        server.faults.extend([lambda handler, body: replaced(lambda b: b)(handler, body)] * 2)
        server.faults.append(problem(422, detail="no"))
        assert [next(stream).step, next(stream).step] == [0, 1]
        with pytest.raises(InvalidInputError, match="step 2 "):
            next(stream)
        assert stream.state_dict()["next_step"] == 2
        assert [batch.step for batch in stream] == [2, 3, 4, 5]


# Other data


def test_a_server_that_begins_to_serve_other_data_is_refused(
    server: FaultServer, dataset: Dataset, make_run: Callable[..., Any]
) -> None:
    with BatchStream(server.url, prefetch=0) as stream, open_plan(dataset, make_run, seed=99) as other:
        expected = stream.description.fingerprint
        next(stream)
        server.plan = other
        with pytest.raises(ForeignDataError) as caught:
            next(stream)
        one_line(caught.value, "step 1 ", server.url, expected, other.fingerprint)
        # A proxy may keep what the server gave before: what does not fit is asked for past it.
        asked = [headers.get("Cache-Control") for path, headers in server.requests if "/batches/1?" in path]
        assert asked == [None, "no-cache", "no-cache"]
        assert stream.state_dict()["next_step"] == 1


@pytest.mark.parametrize("share", [(3, 0, 1), (0, 1, 2)])
def test_another_batch_than_the_one_asked_for_is_refused(server: FaultServer, share: tuple[int, int, int]) -> None:
    other = bytes(wire.encode(server.plan.read_batch(*share)))
    server.faults.extend([replaced(lambda body: other)] * 10)
    with BatchStream(server.url, prefetch=0) as stream, pytest.raises(DamagedDataError, match=r"step 0 .* says"):
        next(stream)


def test_a_description_that_contradicts_itself_is_refused(server: FaultServer) -> None:
    description = server.plan.describe()
    first, second = description.phases
    for wrong in (
        description.model_copy(update={"phases": ()}),
        description.model_copy(update={"total_steps": 1 << 60}),
        description.model_copy(update={"phases": (first.model_copy(update={"batch_size": 0}), second)}),
        description.model_copy(update={"phases": (second, first)}),
        description.model_copy(update={"phases": (first.model_copy(update={"bag_size": 1 << 40}), second)}),
    ):
        body = wrong.model_dump_json().encode()
        server.description_faults.extend([lambda handler, _, body=body: handler.send(200, body, {})] * 3)
        with pytest.raises(DamagedDataError, match="the description of"):
            BatchStream(server.url, timeout_seconds=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_gets_through_or_breaks_the_client(server: FaultServer, data: st.DataObject) -> None:
    """Bytes changed anywhere, or anything at all: the right windows or a clear error."""
    right = server.plan.read_batch(0)
    body = bytearray(wire.encode(right))
    if data.draw(st.booleans()):
        for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
            body[place] = data.draw(st.integers(0, 255))
    else:
        body = bytearray(data.draw(st.binary(max_size=300)))
    server.faults.clear()
    server.faults.append(replaced(lambda _: bytes(body)))  # once: then the right one
    with BatchStream(server.url, prefetch=0, timeout_seconds=10) as stream:
        batch = next(stream)
    assert np.array_equal(batch.windows.numpy(), right.windows)
    assert batch.header == right.header


def test_a_compressed_body_is_refused(server: FaultServer) -> None:
    def compressed(body: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        table = pa.ipc.open_stream(body).read_all()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    server.faults.extend([replaced(compressed)] * 3)
    with BatchStream(server.url, prefetch=0) as stream, pytest.raises(DamagedDataError):
        next(stream)


# Secrets, logs, ends


def test_the_token_is_sent_and_never_told(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
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


def test_retries_are_logged_once_in_a_while(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    server.faults.extend([problem(503)] * 4)
    with BatchStream(server.url, prefetch=0) as stream:
        next(stream)
        assert stream.stats()["retries"] == 4
    assert caplog.text.count("trying again") == 1


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


def test_nothing_is_asked_for_before_the_first_batch_nor_beyond_what_is_needed(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=2) as stream:
        assert server.batch_requests == []
        next(stream)
        list(stream)
    assert len(server.batch_requests) == NUM_STEPS


def test_the_windows_are_a_view_of_what_was_received(server: FaultServer) -> None:
    with BatchStream(server.url, prefetch=0) as stream:
        batch = next(stream)
        storage = batch.windows.untyped_storage()
        assert storage.nbytes() == len(wire.encode(server.plan.read_batch(0)))
        begin = batch.first_token.ctypes.data - storage.data_ptr()
        assert 0 <= begin < storage.nbytes()


def test_two_byte_and_four_byte_tokens(dataset: Dataset, make_run: Callable[..., Any], tmp_path: Any) -> None:
    from tst_data.dataset.writer import write_dataset

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
        assert all_equal_the_plan_from(batch.step + 1, stream, server)


def all_equal_the_plan_from(step: int, stream: BatchStream, server: FaultServer) -> bool:
    batches = list(stream)
    return [batch.step for batch in batches] == list(range(step, NUM_STEPS)) and all(
        np.array_equal(batch.windows.numpy(), server.plan.read_batch(batch.step).windows) for batch in batches
    )


def test_something_that_is_no_tls_server_is_told(server: FaultServer) -> None:
    with pytest.raises(UnavailableError, match="SSL"):
        BatchStream(server.url.replace("http://", "https://"), timeout_seconds=0.5)


def test_a_port_that_nobody_answers_on() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/runs/x"
        with pytest.raises(UnavailableError):
            BatchStream(url, timeout_seconds=0.3)
