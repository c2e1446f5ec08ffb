"""The wire format: what goes in comes out, and damage does not. python -m pytest tests/data/test_wire.py"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tst_data.contract.batch import BatchHeader, WindowBatch, checksum
from tst_data.contract.wire import decode, encode, encode_parts, etag, header_checksum
from tst_data.errors import DamagedDataError


@st.composite
def batches(draw: st.DrawFn) -> WindowBatch:
    rows, world_size = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    dtype: Any = draw(st.sampled_from([np.uint16, np.uint32]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    header = {
        "bag_size": draw(st.integers(1, 5)),
        "sequence_length": draw(st.integers(1, 7)),
        "superpose": draw(st.sampled_from(["both", "input", "output"])),
    }
    return make_batch(rng, rows, world_size, dtype, header)


def make_batch(
    rng: np.random.Generator, rows: int, world_size: int, dtype: type[np.unsignedinteger[Any]], shape: dict[str, Any]
) -> WindowBatch:
    partial = BatchHeader(
        run="r", fingerprint="f" * 64, order_version=1, step=10**15, phase=2, batch_size=rows * world_size, rank=0,
        world_size=world_size, checksum="", **shape,
    )  # fmt: skip
    windows = rng.integers(0, np.iinfo(dtype).max, (rows, partial.geometry.window_length), dtype=dtype, endpoint=True)
    header = BatchHeader(**{**vars(partial), "checksum": checksum(windows)})
    return WindowBatch(
        header,
        windows,
        rng.integers(0, 2**16, rows, dtype=np.uint16),
        rng.integers(0, 2**64, rows, dtype=np.uint64),
    )


SMALL = {"bag_size": 2, "sequence_length": 4, "superpose": "both"}


@given(batch=batches())
def test_round_trip(batch: WindowBatch) -> None:
    received = decode(bytearray(encode(batch)))
    assert received.header == batch.header
    for name in ("windows", "dataset", "first_token"):
        sent, got = getattr(batch, name), getattr(received, name)
        assert got.dtype == sent.dtype
        assert np.array_equal(got, sent)
        assert got.flags.writeable


@given(batch=batches())
def test_a_plain_arrow_reader_reads_it(batch: WindowBatch) -> None:
    table = pa.ipc.open_stream(bytes(encode(batch))).read_all()
    window_length = batch.header.geometry.window_length
    token = pa.uint16() if batch.windows.dtype == np.uint16 else pa.uint32()
    assert table.schema.names == ["window", "dataset", "first_token"]
    assert table.schema.types == [pa.list_(token, window_length), pa.uint16(), pa.uint64()]
    assert table.column("window").to_pylist() == batch.windows.tolist()
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["checksum"] == xxhash.xxh3_64_hexdigest(batch.windows.tobytes())
    fields = {name: str(value) for name, value in vars(batch.header).items()}
    lines = "".join(f"{key}={fields[key]}\n" for key in sorted(fields)).encode()
    columns = batch.dataset.astype("<u2").tobytes() + batch.first_token.astype("<u8").tobytes()
    assert metadata == fields | {"header_checksum": xxhash.xxh3_64_hexdigest(lines + columns)}


@given(batch=batches(), data=st.data())
def test_no_damaged_body_is_taken_for_another_batch(batch: WindowBatch, data: st.DataObject) -> None:
    body = bytearray(encode(batch))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        received = decode(body)
    except DamagedDataError:
        return
    assert_equal(received, batch)  # the bit was padding, or in a part of the framing that means nothing here


def assert_equal(received: WindowBatch, batch: WindowBatch) -> None:
    assert received.header == batch.header
    for name in ("windows", "dataset", "first_token"):
        assert np.array_equal(getattr(received, name), getattr(batch, name))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_every_single_flipped_bit_is_refused_or_harmless(dtype: type[np.unsignedinteger[Any]]) -> None:
    batch = make_batch(np.random.default_rng(0), 2, 1, dtype, SMALL)
    body = bytearray(encode(batch))
    refused = np.zeros(len(body), np.int64)
    for place in range(len(body)):
        for bit in range(8):
            body[place] ^= 1 << bit
            try:
                assert_equal(decode(body), batch)
            except DamagedDataError:
                refused[place] += 1
            body[place] ^= 1 << bit
    data = bytes(body)
    for part in (batch.windows, batch.dataset, batch.first_token):
        begin = data.index(part.tobytes())
        assert (refused[begin : begin + part.nbytes] == 8).all()
    sent = pa.ipc.open_stream(data).schema.metadata
    for text in (*sent.keys(), *sent.values()):
        begin = data.index(text) if len(text) > 3 else -1
        assert begin < 0 or (refused[begin : begin + len(text)] == 8).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": "7"}, "step 7: the header and the origins of the windows have checksum .*, expected .*: damaged on"),
        ({"run": "other"}, "the header and the origins of the windows have checksum"),
        ({"checksum": "0" * 16}, "the header and the origins of the windows have checksum"),
        ({"more": "1"}, "the header and the origins of the windows have checksum"),
        ({"header_checksum": "0" * 16}, f"have checksum .*, expected {'0' * 16}"),
        ({"header_checksum": None}, "the metadata has no header_checksum: damaged on the way, or from an older server"),
    ],
)
def test_a_changed_header_is_named(changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(DamagedDataError, match=message):
        decode(with_metadata(encode(make_batch(np.random.default_rng(0), 2, 1, np.uint16, SMALL)), changes))


@pytest.mark.parametrize("column", [1, 2])
def test_a_changed_origin_is_named(column: int) -> None:
    body = encode(make_batch(np.random.default_rng(0), 2, 1, np.uint16, SMALL))
    with pytest.raises(DamagedDataError, match="the header and the origins of the windows have checksum"):
        decode(with_metadata(body, {}, swapped_column=column))


def with_metadata(body: Any, changes: dict[str, str | None], *, swapped_column: int | None = None) -> Any:
    """The body of another sender, who gives other metadata, or the rows of a column in another order."""
    batch = pa.ipc.open_stream(body).read_next_batch()
    if swapped_column is not None:
        column = batch.column(swapped_column)
        batch = batch.set_column(swapped_column, batch.schema.field(swapped_column), column.take(pa.array([1, 0])))
    metadata = {key.decode(): value.decode() for key, value in batch.schema.metadata.items()}
    metadata = {key: value for key, value in (metadata | changes).items() if value is not None}
    batch = batch.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def test_golden_header_checksum() -> None:
    """Others compute it too: it never changes."""
    origins = np.array([3, 1], np.uint16), np.array([2**40, 17], np.uint64)
    assert header_checksum({"step": "7", "run": "wiki"}, *origins) == "b82e00122a28f6c0"
    assert header_checksum({"run": "wiki", "header_checksum": "x", "step": "7"}, *origins) == "b82e00122a28f6c0"


@given(batch=batches(), data=st.data())
def test_a_cut_body_is_refused(batch: WindowBatch, data: st.DataObject) -> None:
    body = bytearray(encode(batch))
    length = data.draw(st.integers(0, len(body) - 20))
    with pytest.raises(DamagedDataError):
        decode(body[:length])


@pytest.mark.parametrize("body", [b"", b"x", b"\0" * 64, b"\xff" * 4096, b'{"title": "not arrow"}'])
def test_something_else_is_refused(body: bytes) -> None:
    with pytest.raises(DamagedDataError, match="is not a superposed batch"):
        decode(body)


def test_another_table_is_refused() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"window": [1, 2]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DamagedDataError, match="is not a superposed batch"):
        decode(sink.getvalue())


def test_a_changed_token_is_named() -> None:
    batch = make_batch(np.random.default_rng(0), 2, 1, np.uint16, SMALL)
    batch.windows[1, 3] ^= 1
    with pytest.raises(
        DamagedDataError, match=r"^step \d+: the windows have checksum .*, expected .*: damaged on the way; fetch"
    ):
        decode(encode(batch))


def test_a_token_costs_its_own_bytes_only() -> None:
    batch = make_batch(np.random.default_rng(0), 64, 1, np.uint16, SMALL | {"sequence_length": 512})
    assert len(encode(batch)) < batch.windows.nbytes + 64 * 10 + 2048


@pytest.mark.parametrize("sequence_length", [4, 4096])
def test_equal_bodies_have_equal_tags_and_any_change_another(sequence_length: int) -> None:
    def tag(batch: WindowBatch) -> str:
        return etag(batch, encode_parts(batch))

    shape = SMALL | {"sequence_length": sequence_length}
    batch = make_batch(np.random.default_rng(0), 2, 1, np.uint16, shape)
    windows = batch.windows.copy()
    windows[1, 3] ^= 1
    changed = [
        replace(batch, dataset=batch.dataset + np.uint16(1)),
        replace(batch, first_token=batch.first_token + np.uint64(1)),
        replace(batch, header=replace(batch.header, step=7)),
        replace(batch, windows=windows, header=replace(batch.header, checksum=checksum(windows))),
    ]
    assert tag(batch) == tag(make_batch(np.random.default_rng(0), 2, 1, np.uint16, shape))
    assert len({tag(batch), *map(tag, changed)}) == 5
    assert tag(batch).startswith('"')
