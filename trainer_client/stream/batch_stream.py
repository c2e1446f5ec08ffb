"""BatchStream: the batches of a run, in order, for one data-parallel rank.

The state of a stream is the number of its next step and nothing else (`stream_state` says why), and it is never ahead
of what was handed out: what was fetched ahead and not delivered is fetched again. In addition each rank keeps a running
digest of what it was given; save it with the rank's checkpoint and pass it to `load_state_dict`.

Not safe to use after a fork: make the stream in the process that reads it.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch

from trainer_client.stream.batch import Batch
from trainer_client.stream.data_parallel import coordinates
from trainer_client.stream.open_source import open_source
from trainer_client.stream.options import checked_device, checked_seconds, whole_number
from trainer_client.stream.prefetch import Prefetcher
from trainer_client.stream.source import Reader, Received, Source
from trainer_client.stream.stream_state import StreamState
from tst_data.contract.description import RunDescription
from tst_data.contract.shares import check_shares
from tst_data.errors import InvalidInputError

__all__ = ["BatchStream"]

logger = logging.getLogger(__name__)


class BatchStream:
    """The batches of a run from `start_step` on: an iterator over Batch, in order of step and micro-batch.

    `source` is a run's URL (http://host:port/v1/runs/NAME), a run file, or a folder of `tst-data materialize`. `rank`
    and `world_size` are data-parallel coordinates (`trainer_client.stream.data_parallel` says where their defaults come
    from). With `micro_batches` a, each step comes as a batches: micro-batch i is rank `rank * a + i` of `world_size *
    a`. `prefetch` batches are fetched ahead in the background; with 0 each is fetched when it is asked for. Inputs and
    targets are made on `device` (default: host memory, where the windows are). `token` is sent as a bearer token. A
    server that does not respond is asked again until `timeout_seconds` have passed, for the description at construction
    and for each batch; local files that cannot be read now are tried again as long.

    Iterating continues from where the stream is: after `break` with the next batch, after the end with nothing.

    Raises, at construction: InvalidInputError, NotFoundError, UnavailableError; while iterating also DamagedDataError,
    and ForeignDataError where a server begins to serve other data (also the same run, changed after this step).
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
        self.micro_batches = whole_number("micro_batches", micro_batches, at_least=1)
        prefetch = whole_number("prefetch", prefetch, at_least=0)
        start_step = whole_number("start_step", start_step, at_least=0)
        timeout_seconds = checked_seconds("timeout_seconds", timeout_seconds)
        self.device = checked_device(device)
        self._source = open_source(
            source, token=token, timeout_seconds=timeout_seconds, pin_memory=torch.cuda.is_available()
        )
        try:
            check_shares(self._source.description, self.world_size, self.micro_batches)
            self._state = StreamState(self._source.description, self.micro_batches)
            self._state.go_to(self._state.check_step("start_step", start_step), self._state.digest)
        except BaseException:
            self._source.close()
            raise
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
        # Also ends the threads of a stream that is dropped, or still open when the interpreter ends.
        self._finalizer = weakref.finalize(self, _close, self._source, self._prefetcher, self._reader)

    @property
    def description(self) -> RunDescription:
        """The run: fingerprint, phases, totals."""
        return self._source.description

    @property
    def next_step(self) -> int:
        """The first step of which not every micro-batch was handed out."""
        return self._state.next_step

    @property
    def digest(self) -> str:
        """Chained hash over what the whole steps before `next_step` delivered to this rank; 32 hex digits."""
        return self._state.digest

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __len__(self) -> int:
        """Batches that are still to come."""
        return self._state.num_left

    def __next__(self) -> Batch:
        self._check_open()
        if self._state.num_left == 0:
            raise StopIteration
        begin = time.perf_counter()
        try:
            received = self._receive(self._state.position)
        finally:
            self._wait_seconds += time.perf_counter() - begin
        batch: Batch = Batch(
            header=received.batch.header,
            windows=received.windows,
            dataset=received.batch.dataset,
            first_token=received.batch.first_token,
            micro_batch=self._state.micro_batch,
            device=self.device,
        )
        self._deliver(batch, received.num_bytes)
        return batch

    def seek(self, step: int) -> None:
        """Go to the beginning of a step; the number of steps is the end. The digest's chain continues."""
        self._check_open()
        step = self._state.check_step("step", step)
        logger.info("seek from step %d to %d, digest %s", self.next_step, step, self.digest)
        self._state.go_to(step, self.digest)

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank: version, next step, and the fingerprints of the run and of the batches
        before that step."""
        return self._state.to_dict()

    def load_state_dict(self, state: Mapping[str, Any], *, digest: str | None = None) -> None:
        """Go to a saved position. `digest` is this rank's digest at that moment; without it a new chain begins.

        The run may be another one than the state was saved from, if its batches before that step are the same: one that
        was extended, or changed after that step. Raises ForeignDataError for any other, InvalidInputError for what is
        not a state or is past the end of the run.
        """
        self._check_open()
        self._state.load(state, digest, self._source.location)
        logger.info("load the position of step %d, digest %s", self.next_step, digest)

    def stats(self) -> dict[str, Any]:
        """Batches, whole steps, raw tokens, latent positions and bytes delivered so far; seconds waited, retries."""
        return {
            **self._counts,
            "wait_seconds": self._wait_seconds,
            "retries": self._source.num_retries,
            "next_step": self.next_step,
            "digest": self.digest,
        }

    def close(self) -> None:
        """End the background threads and connections. Batches that were handed out stay valid."""
        if self._finalizer.alive:
            logger.info("closed before step %d, digest %s", self.next_step, self.digest)
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
        """Count a batch as delivered. Its step is delivered with the last micro-batch."""
        self._counts["batches"] += 1
        self._counts["tokens"] += batch.num_tokens
        self._counts["latent_positions"] += batch.num_latent_positions
        self._counts["bytes"] += num_bytes
        self._counts["steps"] += self._state.advance(batch.step, batch.checksum)

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise InvalidInputError("stream: is closed; make a new BatchStream to continue")


class _Fetch:
    """Reads the micro-batch at a position of the run. Holds no reference to the stream, so that can be collected."""

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
    """A reader for a background thread. A new thread begins on GPU 0 and would page-lock memory through that one."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    return source.open_reader()


def _close(source: Source, prefetcher: Prefetcher[Reader, Received] | None, reader: Reader | None) -> None:
    if prefetcher is not None:
        prefetcher.close()
    if reader is not None:
        reader.close()
    source.close()
