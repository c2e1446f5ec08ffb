"""The worker process of a conversion: texts in on stdin, token ids out on stdout, until stdin ends.

A process of its own, started as `python -m tst_data.conversion.encode_worker FOLDER DTYPE`, and plain pipes instead of
`multiprocessing`: the caller's main module is not imported again, nothing is pickled, and when the parent dies,
`kill -9` included, stdin ends and the worker with it. A thread reads ahead, so that it ends even while it encodes,
and the next texts are there when the last ones are done.

A frame is two little-endian uint64 (number of items, bytes of payload), the items' lengths as uint64, and the
payload: UTF-8 texts in, token ids out, each document already closed by end-of-text. What cannot be encoded is
answered too, with a frame of no items whose payload is a Failure as JSON: a worker that is gone has run out of memory
or was killed, and nothing else.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from tst_data.configuration import Frozen
from tst_data.tokenizer.base import Tokenizer
from tst_data.tokenizer.loading import load_saved_tokenizer

__all__ = ["Failure", "pack", "read_frame", "write_frame"]


class Failure(Frozen):
    """Why a batch could not be encoded: the first text that the tokenizer refuses, None where it is not a text's."""

    text: int | None
    reason: str


def read_frame(stream: io.RawIOBase | io.BufferedIOBase) -> tuple[np.ndarray, bytearray] | None:
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


def write_frame(stream: BinaryIO, lengths: Sequence[int] | np.ndarray, payload: bytes | memoryview) -> None:
    """Write one frame and flush it."""
    stream.write(np.array([len(lengths), len(payload)], "<u8").tobytes())
    stream.write(np.asarray(lengths, "<u8").tobytes())
    stream.write(payload)
    stream.flush()


def pack(tokenizer: Tokenizer, texts: Sequence[str], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
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


def _read_ahead(stream: io.RawIOBase, frames: queue.SimpleQueue[tuple[np.ndarray, bytearray]]) -> None:
    code = 1
    try:
        while (frame := read_frame(stream)) is not None:
            frames.put(frame)
        code = 0
    finally:  # also without memory for a frame: the other thread would wait for ever
        os._exit(code)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _failure(tokenizer: Tokenizer, texts: Sequence[str], error: BaseException) -> Failure:
    for index, text in enumerate(texts):
        try:
            tokenizer.encode_batch([text])
        except BaseException as first:  # a panic of the library's is no Exception
            return Failure(text=index, reason=_reason(first))
    return Failure(text=None, reason=_reason(error))


def _answer(tokenizer: Tokenizer, frame: tuple[np.ndarray, bytearray], dtype: np.dtype) -> None:
    text_lengths, payload = frame
    ends = np.cumsum(text_lengths).tolist()
    starts = [0, *ends[:-1]]
    texts = [payload[start:end].decode() for start, end in zip(starts, ends, strict=True)]
    try:
        lengths, tokens = pack(tokenizer, texts, dtype)
    except MemoryError:
        raise
    except BaseException as error:  # likewise
        _answer_failure(_failure(tokenizer, texts, error))
    else:
        write_frame(sys.stdout.buffer, lengths, tokens.data.cast("B"))


def _answer_failure(failure: Failure) -> None:
    write_frame(sys.stdout.buffer, [], failure.model_dump_json().encode())


def main() -> None:
    """Encode frames until stdin ends."""
    folder, dtype = sys.argv[1], np.dtype(sys.argv[2])
    frames: queue.SimpleQueue[tuple[np.ndarray, bytearray]] = queue.SimpleQueue()
    # Unbuffered: a thread that waits inside a buffered reader holds its lock, and Python aborts where it exits then.
    stream = io.FileIO(0, "rb", closefd=False)
    threading.Thread(target=_read_ahead, args=(stream, frames), daemon=True).start()
    try:
        tokenizer = load_saved_tokenizer(folder)
    except Exception as error:  # whatever a library raises: the process that asks prints it
        while True:
            frames.get()
            _answer_failure(Failure(text=None, reason=_reason(error)))
    while True:
        _answer(tokenizer, frames.get(), dtype)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, MemoryError):  # nobody reads the answers, or the exit code says it
        os._exit(1)
