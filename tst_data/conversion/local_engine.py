"""Encoding documents in several processes of this machine, with the results in the order of the documents.

Batch `i` goes to worker `i mod n`, and the workers are read in turn, so the order is kept and the output does not show
which worker encoded what. Each worker has at most four batches of about 1 MB in its pipes: enough that no worker waits
while the parent writes a shard, and all the memory that this takes. Threads would be as good as processes for the
tokenizer, which releases Python's lock, but not for turning its ids into arrays, which is a tenth of the time.
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
from typing import Any, BinaryIO, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tst_data.conversion.encode_worker import Failure, read_frame, write_frame
from tst_data.errors import InvalidInputError, TSTError

__all__ = ["EncodedText", "EncodingPool"]

_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
"""The folder that contains `tst_data`: a checkout, or the `site-packages` of an installation."""

_BATCHES_PER_WORKER = 4
_PIPE_BYTES = 1 << 20


class EncodedText(NamedTuple):
    """One text as token ids."""

    tokens: NDArray[np.integer[Any]]
    """End-of-text included."""
    characters: int
    """Characters of the text."""
    lost: int
    """How many of them the tokenizer cannot represent."""


class _TextBatch(Protocol):
    @property
    def texts(self) -> Sequence[bytes]: ...

    def place(self, text: int) -> str:
        """Where one of the texts comes from, for messages."""


BatchT = TypeVar("BatchT", bound=_TextBatch)


class EncodingPool:
    """`num_workers` processes with the tokenizer saved in `tokenizer_folder`, started when first needed."""

    def __init__(self, tokenizer_folder: Path, dtype: str, num_workers: int) -> None:
        # -P: nothing is imported from the current folder, where a file may have the name of a library.
        worker = [sys.executable, "-P", "-m", "tst_data.conversion.encode_worker"]
        self._command = [*worker, str(tokenizer_folder), dtype]
        self._dtype = np.dtype(dtype)
        self._num_workers = num_workers
        self._workers: list[subprocess.Popen[bytes]] = []

    def encode(self, batches: Iterable[BatchT]) -> Iterator[tuple[BatchT, list[EncodedText]]]:
        """Every batch, in order, with its encoded texts.

        Raises InvalidInputError, naming its place, for a document that the tokenizer cannot encode, or that gives a
        special token. Raises TSTError where a worker ends, or cannot encode anything.
        """
        sent: deque[tuple[BatchT, subprocess.Popen[bytes] | None]] = deque()
        num_sent = 0
        for batch in batches:
            worker = None
            if batch.texts:
                self._start()
                worker = self._workers[num_sent % self._num_workers]
                num_sent += 1
                self._send(worker, batch.texts)
            sent.append((batch, worker))
            if len(sent) >= _BATCHES_PER_WORKER * self._num_workers:
                yield self._receive(*sent.popleft())
        while sent:
            yield self._receive(*sent.popleft())

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
        search_path = [_PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]
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
                process_group=0,  # only the parent handles Ctrl-C
            )
            self._workers.append(worker)
            for pipe in (worker.stdin, worker.stdout):
                with suppress(OSError):  # above the user's limit on pipe memory it is refused: slower, but correct
                    fcntl.fcntl(cast("BinaryIO", pipe), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _send(self, worker: subprocess.Popen[bytes], texts: Sequence[bytes]) -> None:
        try:
            write_frame(cast("BinaryIO", worker.stdin), np.array([[len(text)] for text in texts]), b"".join(texts))
        except BrokenPipeError:
            raise self._died(worker) from None

    def _receive(self, batch: BatchT, worker: subprocess.Popen[bytes] | None) -> tuple[BatchT, list[EncodedText]]:
        if worker is None:
            return batch, []
        frame = read_frame(cast("io.BufferedReader", worker.stdout))
        if frame is None:
            raise self._died(worker)
        numbers, payload = frame
        if not len(numbers):
            raise _refusal(batch, Failure.model_validate_json(payload))
        tokens = np.split(np.frombuffer(payload, self._dtype), np.cumsum(numbers[:-1, 0]).astype(np.int64))
        return batch, [EncodedText(*text) for text in zip(tokens, *numbers[:, 1:].T.tolist(), strict=True)]

    def _died(self, worker: subprocess.Popen[bytes]) -> TSTError:
        code = worker.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return TSTError(
            f"encoding process: {how}, perhaps for lack of memory; give the same command again to resume, with "
            "fewer --workers if memory is short"
        )


def _refusal(batch: _TextBatch, failure: Failure) -> TSTError:
    if failure.text is None:
        return TSTError(f"encoding process: cannot encode ({failure.problem}); correct that and convert again")
    return InvalidInputError(f"{batch.place(failure.text)}: {failure.problem}")
