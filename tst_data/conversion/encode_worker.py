"""The worker process of a conversion: texts come in on stdin, token ids go out on stdout, until stdin ends.

It is started as `python -m tst_data.conversion.encode_worker FOLDER DTYPE` and uses plain pipes, not
`multiprocessing`: the main module of the caller is not imported again, nothing is pickled, and when the parent dies,
by `kill -9` too, stdin ends and the worker ends with it. A thread reads ahead. So the worker ends even while it
encodes, and the next texts are there when it has finished the last ones.

A frame is two little-endian uint64 (number of items, bytes of payload), the lengths of the items as uint64, and the
payload. Frames that come in hold UTF-8 texts. Frames that go out hold token ids, each document closed by end-of-text,
or, if the texts cannot be encoded, no items and a Failure as JSON. So when a worker ends by itself, it ran out of
memory or was killed.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tst_data.configuration import Frozen
from tst_data.tokenizer.base import Tokenizer
from tst_data.tokenizer.loading import load_saved_tokenizer

__all__ = ["Failure", "pack", "read_frame", "write_frame"]

_Frame = tuple[NDArray[np.uint64], bytearray]
"""Lengths of the items, and the payload."""


class Failure(Frozen):
    """Why a batch could not be encoded."""

    text: int | None
    """Index of the first text that the tokenizer cannot encode; null where the texts are not the reason."""
    reason: str
    """What the library said."""


def read_frame(stream: io.RawIOBase | io.BufferedIOBase) -> _Frame | None:
    """(lengths of the items, payload), or None where the stream ends."""
    head = _read_exactly(stream, 16)
    if head is None:
        return None
    num_items, payload_bytes = np.frombuffer(head, "<u8").tolist()
    lengths = _read_exactly(stream, 8 * num_items)
    payload = _read_exactly(stream, payload_bytes)
    if lengths is None or payload is None:
        return None
    return np.frombuffer(lengths, "<u8"), payload


def write_frame(
    stream: BinaryIO, lengths: Sequence[int] | NDArray[np.integer[Any]], payload: bytes | memoryview
) -> None:
    """Write one frame and flush it."""
    stream.write(np.array([len(lengths), len(payload)], "<u8").tobytes())
    stream.write(np.asarray(lengths, "<u8").tobytes())
    stream.write(payload)
    stream.flush()


def pack(
    tokenizer: Tokenizer, texts: Sequence[str], dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.integer[Any]]]:
    """(lengths, the token ids of all texts one after another), each text closed by end-of-text."""
    encoded = tokenizer.encode_batch(texts)
    lengths = np.array([len(ids) + 1 for ids in encoded], dtype=np.int64)
    tokens = np.full(int(lengths.sum()), tokenizer.end_of_text_id, dtype)
    start = 0
    for ids in encoded:
        tokens[start : start + len(ids)] = ids
        start += len(ids) + 1
    return lengths, tokens


def _read_exactly(stream: io.RawIOBase | io.BufferedIOBase, num_bytes: int) -> bytearray | None:
    data = bytearray(num_bytes)
    view, filled = memoryview(data), 0
    while filled < num_bytes:
        count = stream.readinto(view[filled:])
        if not count:
            return None
        filled += count
    return data


def _read_ahead(stream: io.RawIOBase, frames: queue.SimpleQueue[_Frame]) -> None:
    code = 1
    try:
        while (frame := read_frame(stream)) is not None:
            frames.put(frame)
        code = 0
    finally:  # also where there is no memory for a frame: otherwise the main thread would wait forever
        os._exit(code)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _failure(tokenizer: Tokenizer, texts: Sequence[str], error: BaseException) -> Failure:
    for index, text in enumerate(texts):
        try:
            tokenizer.encode_batch([text])
        except BaseException as first:  # a panic in the library is not an Exception
            return Failure(text=index, reason=_reason(first))
    return Failure(text=None, reason=_reason(error))


def _respond(tokenizer: Tokenizer, frame: _Frame, dtype: np.dtype[Any]) -> None:
    text_lengths, payload = frame
    ends = np.cumsum(text_lengths).tolist()
    starts = [0, *ends[:-1]]
    texts = [payload[start:end].decode() for start, end in zip(starts, ends, strict=True)]
    try:
        lengths, tokens = pack(tokenizer, texts, dtype)
    except MemoryError:
        raise
    except BaseException as error:  # a panic in the library is not an Exception
        _respond_with_failure(_failure(tokenizer, texts, error))
    else:
        write_frame(sys.stdout.buffer, lengths, tokens.data.cast("B"))


def _respond_with_failure(failure: Failure) -> None:
    write_frame(sys.stdout.buffer, [], failure.model_dump_json().encode())


def main() -> None:
    """Encode frames until stdin ends."""
    folder, dtype = sys.argv[1], np.dtype(sys.argv[2])
    frames: queue.SimpleQueue[_Frame] = queue.SimpleQueue()
    # Unbuffered: a thread that waits in a buffered reader holds its lock, and then Python aborts at its exit.
    stream = io.FileIO(0, "rb", closefd=False)
    threading.Thread(target=_read_ahead, args=(stream, frames), daemon=True).start()
    try:
        tokenizer = load_saved_tokenizer(folder)
    except Exception as error:  # any error of a library: the parent process prints it
        while True:
            frames.get()
            _respond_with_failure(Failure(text=None, reason=_reason(error)))
    while True:
        _respond(tokenizer, frames.get(), dtype)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, MemoryError):  # nobody reads any more, or the exit code says it
        os._exit(1)
