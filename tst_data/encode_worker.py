"""The worker process of a conversion: texts in on stdin, token ids out on stdout, until stdin ends.

A process of its own, started as `python -m tst_data.encode_worker FOLDER DTYPE`, and plain pipes instead of
`multiprocessing`: the caller's main module is not imported again, nothing is pickled, and when the parent dies,
`kill -9` included, stdin ends and the worker with it. A thread reads ahead, so that it ends even while it encodes,
and the next texts are there when the last ones are done.

A frame is two little-endian uint64 (number of items, bytes of payload), the items' lengths as uint64, and the
payload: UTF-8 texts in, token ids out, each document already closed by end-of-text.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from tst_data.tokenizers import Tokenizer, load_saved_tokenizer

__all__ = ["pack", "read_frame", "write_frame"]


def read_frame(stream: BinaryIO) -> tuple[np.ndarray, bytes] | None:
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


def _read_exactly(stream: BinaryIO, num_bytes: int) -> bytes | None:
    data = stream.read(num_bytes)
    return data if len(data) == num_bytes else None


def _read_ahead(frames: queue.SimpleQueue[tuple[np.ndarray, bytes]]) -> None:
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        frames.put(frame)
    os._exit(0)


def main() -> None:
    """Encode frames until stdin ends."""
    folder, dtype = sys.argv[1], np.dtype(sys.argv[2])
    frames: queue.SimpleQueue[tuple[np.ndarray, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_read_ahead, args=(frames,), daemon=True).start()
    tokenizer = load_saved_tokenizer(folder)
    while True:
        text_lengths, payload = frames.get()
        ends = np.cumsum(text_lengths).tolist()
        starts = [0, *ends[:-1]]
        texts = [payload[start:end].decode() for start, end in zip(starts, ends, strict=True)]
        lengths, tokens = pack(tokenizer, texts, dtype)
        write_frame(sys.stdout.buffer, lengths, tokens.data.cast("B"))


if __name__ == "__main__":
    main()
