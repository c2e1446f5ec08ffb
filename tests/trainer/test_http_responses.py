"""The bytes of a response: the batch that was asked for comes out, or a clear error.

python -m pytest tests/trainer/test_http_responses.py
"""

from __future__ import annotations

import datetime
import email.utils

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fault_server import FaultServer, bare, replaced
from trainer_client import BatchStream
from trainer_client.stream.http_responses import retry_after_seconds
from tst_data.contract import wire
from tst_data.errors import DamagedDataError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_gets_through_or_breaks_the_client(server: FaultServer, data: st.DataObject) -> None:
    """Bytes changed anywhere, or anything at all: the right batch or a clear error."""
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
    assert np.array_equal(batch.dataset, right.dataset)
    assert np.array_equal(batch.first_token, right.first_token)
    assert batch.header == right.header


@pytest.mark.parametrize("share", [(3, 0, 1), (0, 1, 2)])
def test_another_batch_than_the_one_asked_for_is_refused(server: FaultServer, share: tuple[int, int, int]) -> None:
    other = bytes(wire.encode(server.plan.read_batch(*share)))
    server.faults.extend([replaced(lambda body: other)] * 10)
    with BatchStream(server.url, prefetch=0) as stream, pytest.raises(DamagedDataError, match=r"step 0 .* says"):
        next(stream)


def test_a_compressed_body_is_refused(server: FaultServer) -> None:
    def compressed(body: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        table = pa.ipc.open_stream(body).read_all()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        made: bytes = sink.getvalue().to_pybytes()
        return made

    server.faults.extend([replaced(compressed)] * 3)
    with BatchStream(server.url, prefetch=0) as stream, pytest.raises(DamagedDataError):
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
        server.description_faults.extend([bare(200, body, **{"Content-Type": "application/json"})] * 3)
        with pytest.raises(DamagedDataError, match=r"the description of .* (contradicts itself|but its phases)"):
            BatchStream(server.url, timeout_seconds=10)


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    assert retry_after_seconds("7") == 7
    assert 50 < (retry_after_seconds(email.utils.format_datetime(later, usegmt=True)) or 0) <= 60
    assert retry_after_seconds("Mon, 01 Jan 2001 00:00:00 GMT") == 0
    assert retry_after_seconds("Mon, 01 Jan 2001 00:00:00 -0000") == 0
    assert retry_after_seconds("later") is None
    assert retry_after_seconds(None) is None
