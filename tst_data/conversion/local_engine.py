"""Encoding documents in several processes, results in the order of the documents.

Batch `i` goes to worker `i mod n`: which worker encodes what never shows in the output, and the order is kept by
reading the workers in turn. A few batches of about 1 MB are under way per worker, so that workers never wait for
the parent while it writes a shard; that is all the memory it takes. Threads would do as well as processes inside
the tokenizer, which leaves Python's lock, but not for turning its ids into arrays, a tenth of the time.
"""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, TypeVar, cast

import numpy as np

from tst_data.conversion.encode_worker import Failure, read_frame, write_frame
from tst_data.errors import InvalidInputError, TSTError

__all__ = ["BATCH_BYTES", "EncodingPool"]

BATCH_BYTES = 1 << 20
"""Text of one batch; a tokenizer needs about 50 times that while it encodes it."""

_BATCHES_UNDER_WAY = 4
_PIPE_BYTES = 1 << 20


class _TextBatch(Protocol):
    @property
    def texts(self) -> Sequence[bytes]: ...

    def place(self, text: int) -> str:
        """Where one of the texts comes from, for a message."""


BatchT = TypeVar("BatchT", bound=_TextBatch)


class EncodingPool:
    """`num_workers` processes with the tokenizer saved in `tokenizer_folder`, started when first needed."""

    def __init__(self, tokenizer_folder: Path, dtype: str, num_workers: int) -> None:
        self._command = [sys.executable, "-m", "tst_data.conversion.encode_worker", str(tokenizer_folder), dtype]
        self._dtype = np.dtype(dtype)
        self._num_workers = num_workers
        self._workers: list[subprocess.Popen[bytes]] = []

    def encode(self, batches: Iterable[BatchT]) -> Iterator[tuple[BatchT, list[np.ndarray]]]:
        """Every batch, in order, with the token ids of its texts (end-of-text included).

        Raises InvalidInputError, naming its place, for a text that the tokenizer cannot encode.
        """
        under_way: deque[tuple[BatchT, subprocess.Popen[bytes] | None]] = deque()
        sent = 0
        for batch in batches:
            worker = None
            if batch.texts:
                self._start()
                worker = self._workers[sent % self._num_workers]
                sent += 1
                self._send(worker, batch.texts)
            under_way.append((batch, worker))
            if len(under_way) >= _BATCHES_UNDER_WAY * self._num_workers:
                yield self._receive(*under_way.popleft())
        while under_way:
            yield self._receive(*under_way.popleft())

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            with suppress(OSError):
                cast("BinaryIO", worker.stdin).close()
        for worker in self._workers:
            worker.wait()
            cast("BinaryIO", worker.stdout).close()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self._workers:
            return
        search_path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        for _ in range(self._num_workers):
            worker = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                process_group=0,  # Ctrl-C is the parent's to handle
            )
            self._workers.append(worker)
            for pipe in (worker.stdin, worker.stdout):
                with suppress(OSError):  # refused above the user's limit on pipe memory: slower, not wrong
                    fcntl.fcntl(cast("BinaryIO", pipe), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _send(self, worker: subprocess.Popen[bytes], texts: Sequence[bytes]) -> None:
        try:
            write_frame(cast("BinaryIO", worker.stdin), [len(text) for text in texts], b"".join(texts))
        except BrokenPipeError:
            raise self._died(worker) from None

    def _receive(self, batch: BatchT, worker: subprocess.Popen[bytes] | None) -> tuple[BatchT, list[np.ndarray]]:
        if worker is None:
            return batch, []
        frame = read_frame(cast("io.BufferedReader", worker.stdout))
        if frame is None:
            raise self._died(worker)
        lengths, payload = frame
        if not len(lengths):
            raise _refusal(batch, Failure.model_validate_json(payload))
        return batch, np.split(np.frombuffer(payload, self._dtype), np.cumsum(lengths[:-1]).astype(np.int64))

    def _died(self, worker: subprocess.Popen[bytes]) -> TSTError:
        code = worker.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return TSTError(
            f"an encoding process {how} (out of memory, perhaps); give the same command again to go on, "
            "with fewer --workers if memory is short"
        )


def _refusal(batch: _TextBatch, failure: Failure) -> TSTError:
    if failure.text is None:
        return TSTError(f"an encoding process cannot encode ({failure.reason}); correct that, and convert again")
    return InvalidInputError(
        f"{batch.place(failure.text)}: the tokenizer cannot encode this text ({failure.reason}); use one that has an "
        "unknown token, or a byte-level one, such as bytes or train:4096"
    )
