"""Reading a materialized run: batches as the server would give them, from a folder and without the run's datasets.

A row is found by multiplication: the phase of a step says how many rows come before it, and no shard spans two phases.
Rows are read through the same maps as token shards, so each piece is verified when it is first read, few files are
open, and a folder that is replaced under an open run is noticed. Needs no `streaming`.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tst_data.configuration import validation_message
from tst_data.contract.batch import BatchHeader, WindowBatch, checksum
from tst_data.contract.description import PhaseDescription, RunDescription
from tst_data.contract.shares import share_of_rank
from tst_data.dataset.folder import DatasetFolder
from tst_data.dataset.map_cache import default_map_cache
from tst_data.dataset.shard_reader import ShardFiles, ShardRead, read_shards
from tst_data.dataset.shard_table import PIECE_BYTES
from tst_data.errors import DamagedDataError, ForeignDataError, InvalidInputError, NotFoundError
from tst_data.materialized.layout import FORMAT_VERSION, RUN_FILE_NAME, MaterializedRun, MaterializedShard, row_dtype

__all__ = ["MaterializedFolder", "open_materialized"]

_AGAIN = "materialize the run again"


def open_materialized(path: str | os.PathLike[str]) -> MaterializedFolder:
    """Open a folder that `tst-data materialize` made.

    Raises NotFoundError, InvalidInputError (not a materialized run), DamagedDataError (its `run.json` changed),
    UnavailableError (it cannot be read now), or ForeignDataError (drawn in another order version: no position in it
    could be compared with one of this version).
    """
    folder = DatasetFolder(Path(os.path.abspath(path)))
    file = folder.path / RUN_FILE_NAME
    folder.check("materialized run", "give a folder that `tst-data materialize` made")
    if not folder.holds(RUN_FILE_NAME):
        raise NotFoundError(f"{file}: does not exist; give a folder that `tst-data materialize` made")
    text = folder.read(RUN_FILE_NAME)
    try:
        run = MaterializedRun.model_validate_json(text)
    except ValidationError as error:
        raise InvalidInputError(
            f"{file}: is not the run.json of a materialized run: {validation_message(error)}; materialize the run again"
        ) from None
    except ForeignDataError as error:
        raise ForeignDataError(f"{file}: {error}; read it with the version that made it, or {_AGAIN}") from None
    if run.format_version != FORMAT_VERSION:
        raise InvalidInputError(
            f"{file}: has format version {run.format_version}, this program reads {FORMAT_VERSION}; use the version of "
            "tst-data that wrote it, or materialize the run again"
        )
    try:
        run.description.check_identity()
    except DamagedDataError as error:
        raise DamagedDataError(f"{file}: {error}; {_AGAIN}") from None
    _check_layout(file, run)
    folder.recognize_by(RUN_FILE_NAME, text)
    return MaterializedFolder(folder, run)


class MaterializedFolder:
    """An opened materialized run. Safe to use from several threads; made by `open_materialized`."""

    def __init__(self, folder: DatasetFolder, run: MaterializedRun) -> None:
        self.path = folder.path
        self.description: RunDescription = run.description
        self._first_row = np.array([shard.first_row for shard in run.shards], dtype=np.int64)
        self._table = _Table(run.shards)
        self._folder = folder
        self._files = ShardFiles(folder, self._table, default_map_cache())

    def read_batch(self, step: int, rank: int = 0, world_size: int = 1) -> WindowBatch:
        """One rank's share of a step.

        Raises NotFoundError for a step past the end, InvalidInputError where the world size does not divide the
        batch, DamagedDataError where a shard is not what was written, UnavailableError where it cannot be read now.
        """
        description = self.description
        phase = description.phase(step)
        share = share_of_rank(phase.batch_size, rank, world_size)
        rows_before = sum(p.steps * p.batch_size for p in description.phases[: phase.phase])
        begin = rows_before + (step - phase.first_step) * phase.batch_size + share.start
        num_rows = share.stop - share.start
        row = row_dtype(phase.window_length, description.dtype)
        head = np.dtype([(name, row[name]) for name in row.names or () if name != "window"])
        heads = np.empty(num_rows, dtype=head)
        windows = np.empty((num_rows, phase.window_length), dtype=description.dtype)
        self._copy_rows(begin, row.itemsize, heads, windows)
        self._check_heads(heads, phase, step, windows[0].nbytes)
        self._check_ids(windows, step)
        header = BatchHeader.of(description, phase, step, rank, world_size, checksum(windows))
        dataset, first_token = np.ascontiguousarray(heads["dataset"]), np.ascontiguousarray(heads["first_token"])
        return WindowBatch(header, windows, dataset, first_token)

    def close(self) -> None:
        """Release the maps and the folder; a later read opens them again."""
        self._files.close()
        self._folder.close()

    def __enter__(self) -> MaterializedFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _copy_rows(self, begin: int, row_bytes: int, heads: NDArray[Any], windows: NDArray[Any]) -> None:
        """Copy the rows from `begin` on: what comes before the window into `heads`, the window into `windows`."""
        done = 0
        while done < len(heads):
            number = int(np.searchsorted(self._first_row, begin + done, side="right")) - 1
            shard = self._table.shards[number]
            of_shard = begin + done - shard.first_row
            count = min(shard.rows - of_shard, len(heads) - done)
            rows_start = shard.bytes - shard.rows * row_bytes  # nothing follows the rows
            first = rows_start + of_shard * row_bytes
            head_targets, window_targets = heads[done : done + count], windows[done : done + count].view(np.uint8)

            def copy(
                maps: list[NDArray[np.uint8]],
                first: int = first,
                head_targets: NDArray[Any] = head_targets,
                window_targets: NDArray[np.uint8] = window_targets,
            ) -> None:
                """The windows first: that releases the lock, and the heads are then in memory too."""
                window_start, strides = first + heads.itemsize, (row_bytes, 1)
                window_targets[...] = np.ndarray(window_targets.shape, np.uint8, maps[0], window_start, strides)
                head_targets[...] = np.ndarray(head_targets.shape, heads.dtype, maps[0], first, (row_bytes,))

            read_shards([ShardRead(self._files, number, np.array([first]), count * row_bytes)], copy)
            done += count

    def _check_ids(self, windows: NDArray[Any], step: int) -> None:
        """Raise DamagedDataError unless all token ids are of the vocabulary."""
        size = self.description.vocabulary_size
        if size <= np.iinfo(windows.dtype).max and (largest := int(windows.max())) >= size:
            raise DamagedDataError(
                f"{self.path}: a row of step {step} holds token {largest}, outside the vocabulary of {size} tokens; "
                f"{_AGAIN}"
            )

    def _check_heads(self, heads: NDArray[Any], phase: PhaseDescription, step: int, window_bytes: int) -> None:
        """Raise DamagedDataError unless the rows say what their place in the run says."""
        expected = {
            "window_bytes": window_bytes,
            "step": step,
            "phase": phase.phase,
            "bag_size": phase.bag_size,
        }
        for name, value in expected.items():
            if (heads[name] != value).any():
                raise DamagedDataError(
                    f"{self.path}: a row of step {step} says {name} {heads[name][heads[name] != value][0]}, expected "
                    f"{value}; {_AGAIN}"
                )


class _Table:
    """The shards as a `ShardList`."""

    def __init__(self, shards: tuple[MaterializedShard, ...]) -> None:
        self.shards = shards
        self.num_bytes = np.array([shard.bytes for shard in shards], dtype=np.int64)

    def file_name(self, shard: int) -> str:
        return self.shards[shard].file

    def pieces(self, shard: int) -> NDArray[np.uint64]:
        return np.array([int(piece, 16) for piece in self.shards[shard].pieces], dtype=np.uint64)


def _check_layout(file: Path, run: MaterializedRun) -> None:
    """Raise DamagedDataError unless the shards hold the run's rows, phase after phase, and each piece has a hash."""
    shards = iter(run.shards)
    first_row = 0
    for phase in run.description.phases:
        row_bytes = row_dtype(phase.window_length, run.description.dtype).itemsize
        end = first_row + phase.steps * phase.batch_size
        while first_row < end:
            shard = next(shards, None)
            if shard is None or not _fits(shard, phase, first_row, row_bytes):
                raise DamagedDataError(f"{file}: its shards do not fit its phases at row {first_row}; {_AGAIN}")
            first_row += shard.rows
        if first_row != end:
            raise DamagedDataError(f"{file}: a shard extends past phase {phase.phase}; {_AGAIN}")
    if next(shards, None) is not None:
        raise DamagedDataError(f"{file}: holds shards after the end of the run; {_AGAIN}")


def _fits(shard: MaterializedShard, phase: PhaseDescription, first_row: int, row_bytes: int) -> bool:
    return (
        Path(shard.file).name == shard.file
        and shard.phase == phase.phase
        and shard.first_row == first_row
        and shard.rows > 0
        and shard.bytes > shard.rows * row_bytes
        and len(shard.pieces) == -(-shard.bytes // PIECE_BYTES)
        and all(len(piece) == 16 and set(piece) <= set("0123456789abcdef") for piece in shard.pieces)
    )
