"""The worker process of a conversion: texts come in on stdin, token ids go out on stdout, until stdin ends.

It is started as `python -m tst_data.conversion.encode_worker FOLDER DTYPE` and uses plain pipes, not
`multiprocessing`: the main module of the caller is not imported again, nothing is pickled, and when the parent dies,
by `kill -9` too, stdin ends and the worker ends with it. A thread reads ahead. So the worker ends even while it
encodes, and the next texts are there when it has finished the last ones.

A frame is three little-endian uint64 (number of items, numbers for each item, bytes of payload), the numbers as uint64,
item after item, and the payload. Frames that come in hold UTF-8 texts, with one number each: its bytes. Frames that go
out hold token ids, each document closed by end-of-text, with three numbers each: its tokens, the characters of its
text, and how many of these were lost. If the texts cannot be encoded, there are no items, and the payload is a Failure
as JSON. So when a worker ends by itself, it ran out of memory or was killed.

A worker also checks that no text has given a special token. No known text can (`tst_data/tokenizer/working_copy.py`);
the check, a lookup for each token, does not rely on that.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tst_data.configuration import Frozen
from tst_data.errors import InvalidInputError
from tst_data.tokenizer.base import Tokenizer
from tst_data.tokenizer.loading import load_saved_tokenizer

__all__ = ["Failure", "Packed", "pack", "read_frame", "write_frame"]

_Frame = tuple[NDArray[np.uint64], bytearray]
"""Numbers of the items (num_items, numbers for each item), and the payload."""


class Failure(Frozen):
    """Why a batch could not be encoded."""

    text: int | None
    """Index of the first text that the tokenizer cannot encode; null where the texts are not the reason."""
    problem: str
    """What is wrong, and with a text also what to do."""


class Packed(NamedTuple):
    """Texts as token ids, ready to be written."""

    tokens: NDArray[np.integer[Any]]
    """The token ids of all texts one after another, each text closed by end-of-text."""
    lengths: NDArray[np.int64]
    """Tokens of each text, end-of-text included."""
    characters: list[int]
    """Characters of each text."""
    lost: list[int]
    """How many of them the tokenizer cannot represent."""


def read_frame(stream: io.RawIOBase | io.BufferedIOBase) -> _Frame | None:
    """(numbers of the items, payload), or None where the stream ends."""
    head = _read_exactly(stream, 24)
    if head is None:
        return None
    num_items, num_numbers, payload_bytes = np.frombuffer(head, "<u8").tolist()
    numbers = _read_exactly(stream, 8 * num_items * num_numbers)
    payload = _read_exactly(stream, payload_bytes)
    if numbers is None or payload is None:
        return None
    return np.frombuffer(numbers, "<u8").reshape(num_items, num_numbers), payload


def write_frame(stream: BinaryIO, numbers: NDArray[np.integer[Any]], payload: bytes | memoryview) -> None:
    """Write one frame with `numbers` (num_items, numbers for each item), and flush it."""
    stream.write(np.array([*numbers.shape, len(payload)], "<u8").tobytes())
    stream.write(numbers.astype("<u8").tobytes())
    stream.write(payload)
    stream.flush()


def pack(tokenizer: Tokenizer, texts: Sequence[str], dtype: np.dtype[Any]) -> Packed:
    """Encode texts. Raises InvalidInputError for a text that gave a special token, without saying which text."""
    encoded, lost = tokenizer.encode_and_count(texts)
    lengths = np.array([len(ids) + 1 for ids in encoded], dtype=np.int64)
    tokens = np.full(int(lengths.sum()), tokenizer.end_of_text_id, dtype)
    start = 0
    for ids in encoded:
        tokens[start : start + len(ids)] = ids
        start += len(ids) + 1
    if tokenizer.reserved_ids:
        _refuse_special_tokens(tokenizer, tokens, np.cumsum(lengths) - 1)
    return Packed(tokens, lengths, [len(text) for text in texts], lost)


def _refuse_special_tokens(tokenizer: Tokenizer, tokens: NDArray[np.integer[Any]], closing: NDArray[np.int64]) -> None:
    """`closing` are the places of the end-of-text tokens that close the texts."""
    is_reserved = np.zeros(tokenizer.vocabulary_size, np.bool_)
    is_reserved[list(tokenizer.reserved_ids)] = True
    found = is_reserved[tokens]
    found[closing] = False
    if found.any():
        token = int(tokens[found.argmax()])
        raise InvalidInputError(
            f"the text gives the special token {tokenizer.decode([token])!r} (id {token}), which no text may give; "
            "take what spells it out of the text, or use another tokenizer"
        )


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


def _failure(tokenizer: Tokenizer, texts: Sequence[str], dtype: np.dtype[Any], error: BaseException) -> Failure:
    for index, text in enumerate(texts):
        try:
            pack(tokenizer, [text], dtype)
        except InvalidInputError as first:
            return Failure(text=index, problem=str(first))
        except BaseException as first:  # a panic in the library is not an Exception
            problem = (
                f"the tokenizer cannot encode this text ({_reason(first)}); use one with an unknown token, or one of "
                "the byte level, such as bytes or train:4096"
            )
            return Failure(text=index, problem=problem)
    return Failure(text=None, problem=_reason(error))


def _respond(tokenizer: Tokenizer, frame: _Frame, dtype: np.dtype[Any]) -> None:
    numbers, payload = frame
    ends = np.cumsum(numbers[:, 0]).tolist()
    starts = [0, *ends[:-1]]
    texts = [payload[start:end].decode() for start, end in zip(starts, ends, strict=True)]
    try:
        packed = pack(tokenizer, texts, dtype)
    except MemoryError:
        raise
    except BaseException as error:  # a panic in the library is not an Exception
        _respond_with_failure(_failure(tokenizer, texts, dtype, error))
    else:
        numbers = np.column_stack((packed.lengths, packed.characters, packed.lost))
        write_frame(sys.stdout.buffer, numbers, packed.tokens.data.cast("B"))


def _respond_with_failure(failure: Failure) -> None:
    write_frame(sys.stdout.buffer, np.empty((0, 3), np.int64), failure.model_dump_json().encode())


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
            _respond_with_failure(Failure(text=None, problem=_reason(error)))
    while True:
        _respond(tokenizer, frames.get(), dtype)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, MemoryError):  # nobody reads any more, or the exit code says it
        os._exit(1)
