"""Bagging offline: write a run's batches, in order, as MDS that a trainer reads with no server.

It is for a trainer node that has disk but cannot reach a batch server. Each epoch of the data is stored again, so a run
of two epochs takes twice the space. The folder is built beside its destination and renamed when it is whole. The same
call after an interruption resumes after the last whole shard. Window values equal what the server gives.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tst_data.configuration import Frozen
from tst_data.contract.description import PhaseDescription, RunDescription
from tst_data.dataset.manifest import INDEX_NAME, shard_file_name
from tst_data.dataset.mds import FixedSampleEncoder, index_chunks
from tst_data.dataset.shard_table import piece_hashes
from tst_data.durable_files import TEMPORARY_SUFFIX, sync_folder, try_lock, write_atomically, write_file_atomically
from tst_data.errors import ForeignDataError, InvalidInputError, TSTError
from tst_data.materialized.layout import (
    COLUMNS,
    FORMAT_VERSION,
    RUN_FILE_NAME,
    MaterializedRun,
    MaterializedShard,
    row_dtype,
)
from tst_data.plan.plan import Plan
from tst_data.stores.destination import is_vacant, making_parents, refuse_occupied

__all__ = ["SHARD_BYTES", "ShardRows", "materialize"]

SHARD_BYTES = 1 << 26
"""Approximate size of a shard file."""

JOURNAL_NAME = "materialize.journal"


class ShardRows(NamedTuple):
    """The rows of one shard."""

    phase: PhaseDescription
    """Their phase."""
    first_row: int
    """Rows of the run before them."""
    first_row_of_phase: int
    """Rows of the phase before them."""
    rows: int
    """Number of rows."""


class _Written(Frozen):
    """A line of the journal: a shard that is on disk."""

    shard: MaterializedShard
    """Its entry in `run.json`."""
    entry: dict[str, Any]
    """Its entry in `index.json`."""


def materialize(
    plan: Plan, out: Path, *, shard_bytes: int = SHARD_BYTES, progress: Callable[[int], None] | None = None
) -> bool:
    """Write the whole run to the folder `out`; False if it was already there.

    `progress` is called with the number of rows done, among them those of an interrupted call. Raises
    InvalidInputError where `out` holds something else.
    """
    description = plan.describe()
    if not is_vacant(out):
        _refuse_other(out, description)
        return False
    staging = out.with_name(f".{out.name}.materializing")
    with making_parents(out):
        staging.mkdir(exist_ok=True)
        with _locked(staging):
            if not is_vacant(out):  # finished by another process while this one waited for the lock
                _refuse_other(out, description)
                return False
            for leftover in staging.glob(f"*{TEMPORARY_SUFFIX}"):  # of a process that was killed
                leftover.unlink()
            written = _read_journal(staging, description, shard_bytes)
            try:
                _write_shards(plan, staging, written, shard_bytes, progress)
            except TSTError:
                if not written:  # there is nothing to resume
                    shutil.rmtree(staging)
                raise
            _finish(staging, description, written)
            staging.rename(out)
            sync_folder(out.parent)
    return True


def _write_shards(
    plan: Plan, staging: Path, written: list[_Written], shard_bytes: int, progress: Callable[[int], None] | None
) -> None:
    """Write the shards after those that are in `written`, and append each to it."""
    for number, shard_rows in enumerate(_rows_of_shards(plan.describe(), shard_bytes)):
        if number == len(written):
            shard = _write_shard(plan, staging, number, shard_rows)
            _append_journal(staging, shard.model_dump_json())
            written.append(shard)
        if progress:
            progress(shard_rows.first_row + shard_rows.rows)


def _finish(staging: Path, description: RunDescription, written: Sequence[_Written]) -> None:
    """Write what makes the folder a whole run."""
    with write_file_atomically(staging / INDEX_NAME) as file:
        file.writelines(index_chunks(item.entry for item in written))
    run = MaterializedRun(
        format_version=FORMAT_VERSION, description=description, shards=tuple(item.shard for item in written)
    )
    write_atomically(staging / RUN_FILE_NAME, (run.model_dump_json(indent=1) + "\n").encode())
    (staging / JOURNAL_NAME).unlink()


def _refuse_other(out: Path, description: RunDescription) -> None:
    """Refuse a folder that holds anything else than this run."""
    file = out / RUN_FILE_NAME
    try:
        there = MaterializedRun.model_validate_json(file.read_bytes() if file.is_file() else b"").description
    except (OSError, ValidationError):
        refuse_occupied(out)
    except ForeignDataError as error:
        raise ForeignDataError(f"{out}: holds a run that {error}; choose another --out") from None
    if there.fingerprint != description.fingerprint:
        raise ForeignDataError(
            f"{out}: holds run '{there.name}' with fingerprint {there.fingerprint}, not '{description.name}' with "
            f"{description.fingerprint}; choose another --out, or move it away"
        )


def _rows_of_shards(description: RunDescription, shard_bytes: int) -> Iterator[ShardRows]:
    """How the run's rows are cut into shards: by whole rows, never across phases."""
    first_row = 0
    for phase in description.phases:
        per_shard = max(1, shard_bytes // row_dtype(phase.window_length, description.dtype).itemsize)
        num_rows = phase.batch_size * phase.steps
        for begin in range(0, num_rows, per_shard):
            rows = min(per_shard, num_rows - begin)
            yield ShardRows(phase, first_row, begin, rows)
            first_row += rows


def _write_shard(plan: Plan, folder: Path, number: int, shard_rows: ShardRows) -> _Written:
    rows = _read_rows(plan, shard_rows)
    file_name = shard_file_name(number)
    data, entry = FixedSampleEncoder(COLUMNS, rows.itemsize).encode(rows, file_name)
    write_atomically(folder / file_name, data)
    shard = MaterializedShard(
        file=file_name,
        phase=shard_rows.phase.phase,
        first_row=shard_rows.first_row,
        rows=shard_rows.rows,
        bytes=len(data),
        pieces=tuple(f"{piece:016x}" for piece in piece_hashes(data).tolist()),
    )
    return _Written(shard=shard, entry=entry)


def _read_rows(plan: Plan, shard_rows: ShardRows) -> NDArray[Any]:
    """The rows of one shard, from the batches of the steps that they belong to."""
    phase, first = shard_rows.phase, shard_rows.first_row_of_phase
    end = first + shard_rows.rows
    rows = np.empty(shard_rows.rows, dtype=row_dtype(phase.window_length, plan.dtype.name))
    rows["window_bytes"] = phase.window_length * plan.dtype.itemsize
    rows["phase"], rows["bag_size"] = phase.phase, phase.bag_size
    for step_of_phase in range(first // phase.batch_size, -(-end // phase.batch_size)):
        batch = plan.read_batch(phase.first_step + step_of_phase)
        # A shard may begin and end in the middle of a step: the part of the step that is in the shard, and its place.
        first_of_step = step_of_phase * phase.batch_size
        of_step = slice(max(first - first_of_step, 0), min(end - first_of_step, phase.batch_size))
        begin = first_of_step + of_step.start - first
        of_shard = rows[begin : begin + of_step.stop - of_step.start]
        of_shard["step"] = phase.first_step + step_of_phase
        of_shard["dataset"] = batch.dataset[of_step]
        of_shard["first_token"] = batch.first_token[of_step]
        of_shard["window"] = batch.windows[of_step]
    return rows


def _read_journal(staging: Path, description: RunDescription, shard_bytes: int) -> list[_Written]:
    """The shards that an interrupted call wrote; begins the journal where there is none."""
    path = staging / JOURNAL_NAME
    begin = {"fingerprint": description.fingerprint, "shard_bytes": shard_bytes}
    if not path.exists():
        write_atomically(path, (json.dumps(begin) + "\n").encode())
    whole_lines = path.read_bytes().split(b"\n")[:-1]
    begun = json.loads(whole_lines[0])
    if begun != begin:
        raise ForeignDataError(
            f"{staging}: holds an unfinished run with {_in_words(begun)}, not one with {_in_words(begin)}; finish that "
            "one, or remove the folder"
        )
    write_atomically(path, b"".join(line + b"\n" for line in whole_lines))  # without the line that may be torn
    return [_Written.model_validate_json(line) for line in whole_lines[1:]]


def _in_words(begin: dict[str, Any]) -> str:
    return f"fingerprint {begin['fingerprint']} in shards of {begin['shard_bytes']} bytes"


def _append_journal(staging: Path, line: str) -> None:
    with (staging / JOURNAL_NAME).open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder, and refuse where another process holds it; the kernel releases it when the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(descriptor):
            raise InvalidInputError(f"{folder}: another process is writing it; wait until it ends")
        yield
    finally:
        os.close(descriptor)
