"""BatchStream: the batches of a run, in order, for one data-parallel rank.

A batch is a pure function of (run, step, rank, world size), so the whole state of a stream is the number of its
next step. State does not depend on the rank and is never ahead of what was handed out: what was fetched ahead
and not delivered is simply fetched again. It can be loaded at any world size that divides the batch.

Beside the state each rank keeps a running digest of what it was given: a chained hash over step, micro-batch
and window checksum. Two stretches of training that read the same data end with the same digest, whatever was
restarted in between and wherever the data came from; save it with the rank's checkpoint and pass it back to
`load_state_dict`.

Not safe to use after a fork: make the stream in the process that reads it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from numbers import Integral
from types import TracebackType
from typing import Any

import torch

from trainer_client.stream.batch import Batch
from trainer_client.stream.data_parallel import coordinates
from trainer_client.stream.prefetch import Prefetcher
from trainer_client.stream.source import Reader, Received, Source, open_source
from tst_data.contract.description import RunDescription
from tst_data.contract.shares import check_shares
from tst_data.errors import ForeignDataError, InvalidInputError

__all__ = ["BatchStream"]

logger = logging.getLogger(__name__)

STATE_VERSION = 1
EMPTY_DIGEST = "0" * 32


class BatchStream:
    """The batches of a run from `start_step` on: an iterator over Batch, in order of step and micro-batch.

    `source` is a run's URL (http://host:port/v1/runs/NAME), a run file, or a folder of `tst-data materialize`.
    `rank` and `world_size` are data-parallel coordinates (see `trainer_client.stream.data_parallel` for the defaults).
    With `micro_batches` a, each step comes as a batches: micro-batch i is rank `rank * a + i` of `world_size * a`.
    `prefetch` batches are fetched ahead in the background; 0 fetches each when it is asked for.
    Inputs and targets are made on `device` (default: where the windows are, host memory); `token` is sent as a
    bearer token. A server that does not answer is asked again until `timeout_seconds` have passed, for the
    description at construction and for each batch.

    Iterating goes on from where the stream is: after `break` with the next batch, after the end with nothing.

    Raises, at construction: InvalidInputError, NotFoundError, UnavailableError; while iterating also
    DamagedDataError, and ForeignDataError where a server begins to serve other data.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        rank: int | None = None,
        world_size: int | None = None,
        start_step: int = 0,
        micro_batches: int = 1,
        prefetch: int = 2,
        device: torch.device | str | int | None = None,
        token: str | None = None,
        timeout_seconds: float = 300,
    ) -> None:
        self.rank, self.world_size = coordinates(rank, world_size)
        self.micro_batches = _whole("micro_batches", micro_batches, at_least=1)
        prefetch = _whole("prefetch", prefetch, at_least=0)
        start_step = _whole("start_step", start_step, at_least=0)
        if not isinstance(timeout_seconds, int | float) or not 0 < timeout_seconds < math.inf:
            raise InvalidInputError(f"timeout_seconds is {timeout_seconds!r}; expected seconds, more than 0")
        self.device = _device(device)
        self._source = open_source(
            source, token=token, timeout_seconds=timeout_seconds, pin_memory=torch.cuda.is_available()
        )
        try:
            check_shares(self._source.description, self.world_size, self.micro_batches)
            self._check_step("start_step", start_step)
        except BaseException:
            self._source.close()
            raise
        self._step = start_step
        self._micro_batch = 0
        self._digest = self._next_digest = EMPTY_DIGEST
        self._counts = {"batches": 0, "steps": 0, "tokens": 0, "latent_positions": 0, "bytes": 0}
        self._wait_seconds = 0.0
        self._fetch = _Fetch(self.rank, self.world_size, self.micro_batches)
        self._reader: Reader | None = None
        self._prefetcher: Prefetcher[Reader, Received] | None = None
        if prefetch:
            self._prefetcher = Prefetcher(
                partial(_open_in_thread, self._source, _gpu(self.device)),
                self._fetch,
                end=self.description.total_steps * self.micro_batches,
                depth=prefetch,
                num_threads=min(prefetch, self._source.max_readers),
            )
        else:
            self._reader = self._source.open_reader()
        # Also ends the threads when the stream is dropped, or left open at the interpreter's end.
        self._finalizer = weakref.finalize(self, _close, self._source, self._prefetcher, self._reader)

    @property
    def description(self) -> RunDescription:
        """The run: fingerprint, phases, totals."""
        return self._source.description

    @property
    def next_step(self) -> int:
        """The first step of which not every micro-batch was handed out."""
        return self._step

    @property
    def digest(self) -> str:
        """Chained hash over what the whole steps before `next_step` delivered to this rank; 32 hex digits."""
        return self._digest

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __len__(self) -> int:
        """Batches still to come."""
        return (self.description.total_steps - self._step) * self.micro_batches - self._micro_batch

    def __next__(self) -> Batch:
        self._check_open()
        if self._step >= self.description.total_steps:
            raise StopIteration
        begin = time.perf_counter()
        try:
            received = self._receive(self._step * self.micro_batches + self._micro_batch)
        finally:
            self._wait_seconds += time.perf_counter() - begin
        batch: Batch = Batch(
            header=received.batch.header,
            windows=received.windows,
            dataset=received.batch.dataset,
            first_token=received.batch.first_token,
            micro_batch=self._micro_batch,
            device=self.device,
        )
        self._deliver(batch, received.num_bytes)
        return batch

    def seek(self, step: int) -> None:
        """Go to the beginning of a step; the number of steps is the end. The digest goes on as a chain."""
        self._check_open()
        step = _whole("step", step, at_least=0)
        self._check_step("step", step)
        logger.info("seek from step %d to %d, digest %s", self._step, step, self._digest)
        self._go_to(step, self._digest)

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank: version, fingerprint and next step."""
        return {
            "version": STATE_VERSION,
            "fingerprint": self.description.fingerprint,
            "next_step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, digest: str | None = None) -> None:
        """Go to a saved position. `digest` is the rank's own of that moment; without it a new chain begins.

        Raises InvalidInputError for a state that is not one, ForeignDataError for that of another run's data.
        """
        self._check_open()
        step = self._checked_state(state)
        if digest is not None and not _is_digest(digest):
            raise InvalidInputError(f"digest is {digest!r}; expected the 32 hex digits of `BatchStream.digest`")
        logger.info("load the position of step %d, digest %s", step, digest)
        self._go_to(step, digest or EMPTY_DIGEST)

    def stats(self) -> dict[str, Any]:
        """What was delivered so far: batches, whole steps, raw tokens, latent positions, bytes; and at what cost."""
        return {
            **self._counts,
            "wait_seconds": self._wait_seconds,
            "retries": self._source.num_retries,
            "next_step": self._step,
            "digest": self._digest,
        }

    def close(self) -> None:
        """End the background threads and connections. Batches that were handed out stay valid."""
        if self._finalizer.alive:
            logger.info("closed before step %d, digest %s", self._step, self._digest)
            self._finalizer()

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, position: int) -> Received:
        if self._prefetcher is not None:
            return self._prefetcher.take(position)
        assert self._reader is not None
        return self._fetch(self._reader, position)

    def _deliver(self, batch: Batch, num_bytes: int) -> None:
        """Count a batch as delivered; the step is when its last micro-batch is."""
        self._counts["batches"] += 1
        self._counts["tokens"] += batch.num_tokens
        self._counts["latent_positions"] += batch.num_latent_positions
        self._counts["bytes"] += num_bytes
        self._next_digest = _chained(self._next_digest, batch.step, batch.micro_batch, batch.checksum)
        self._micro_batch += 1
        if self._micro_batch == self.micro_batches:
            self._counts["steps"] += 1
            self._go_to(self._step + 1, self._next_digest)

    def _go_to(self, step: int, digest: str) -> None:
        self._step, self._micro_batch = step, 0
        self._digest = self._next_digest = digest

    def _checked_state(self, state: Mapping[str, Any]) -> int:
        """The step of a state that fits this run."""
        expected = "expected what state_dict() gave: version, fingerprint and next_step"
        if not isinstance(state, Mapping) or not {"version", "fingerprint", "next_step"} <= set(state):
            given = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise InvalidInputError(f"state holds {given}; {expected}")
        version, fingerprint, step = state["version"], state["fingerprint"], state["next_step"]
        if version != STATE_VERSION:
            raise InvalidInputError(f"state has version {version!r}; expected {STATE_VERSION}")
        if not isinstance(fingerprint, str):
            raise InvalidInputError(f"state has fingerprint {fingerprint!r}; {expected}")
        if fingerprint != self.description.fingerprint:
            raise ForeignDataError(
                f"state is of data with fingerprint {fingerprint}, {self._source.location} has "
                f"{self.description.fingerprint}; resume with the run that it was saved from"
            )
        step = _whole("next_step of state", step, at_least=0)
        self._check_step("next_step of state", step)
        return step

    def _check_step(self, name: str, step: int) -> None:
        total = self.description.total_steps
        if step > total:
            raise InvalidInputError(
                f"{name} is {step}, past the end of run '{self.description.name}'; expected 0 to {total}"
            )

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise InvalidInputError("the stream is closed; make a new BatchStream to go on")


class _Fetch:
    """Reads the batch at a position, micro-batches counted through; holds no reference to the stream."""

    def __init__(self, rank: int, world_size: int, micro_batches: int) -> None:
        self._first_share = rank * micro_batches
        self._shares = world_size * micro_batches
        self._micro_batches = micro_batches

    def __call__(self, reader: Reader, position: int) -> Received:
        step, micro_batch = divmod(position, self._micro_batches)
        return reader.read(step, self._first_share + micro_batch, self._shares)


def _gpu(device: torch.device | None) -> int | None:
    """The index of the GPU that this process works on; None where there is none, or none was used yet."""
    if device is not None and device.type == "cuda":
        return torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def _open_in_thread(source: Source, gpu: int | None) -> Reader:
    """A reader for a background thread, which begins on GPU 0 and would page-lock memory by way of that one."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    return source.open_reader()


def _close(source: Source, prefetcher: Prefetcher[Reader, Received] | None, reader: Reader | None) -> None:
    if prefetcher is not None:
        prefetcher.close()
    if reader is not None:
        reader.close()
    source.close()


def _chained(digest: str, step: int, micro_batch: int, checksum: str) -> str:
    """The digest after one more batch."""
    return hashlib.blake2b(f"{digest}:{step}:{micro_batch}:{checksum}".encode(), digest_size=16).hexdigest()


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")


def _device(device: torch.device | str | int | None) -> torch.device | None:
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise InvalidInputError(f"device is {device!r}; expected what torch.device takes, like 'cuda:0'") from None


def _whole(name: str, value: Any, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidInputError(f"{name} is {value!r}; expected a whole number, at least {at_least}")
    if value < at_least:
        raise InvalidInputError(f"{name} is {value}; expected at least {at_least}")
    return int(value)
