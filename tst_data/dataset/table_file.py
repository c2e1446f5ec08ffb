"""A Parquet file of which one large column is read later, and is then still the one that was verified.

Opening reads the file once, in order. Every byte goes into the hash that is compared with the expected one. What is
parsed at opening is kept in memory for that long; of the large column, which would take 62 MB for 100,000 shards, only
a hash of each row group's bytes is kept. When such a row group is read later, its bytes must have that hash. What is
parsed is what was hashed, never the bytes of a second read. The footer, which says where the columns are, is parsed
before the hash of the file is compared; all else after.
"""

from __future__ import annotations

import mmap
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from tst_data.dataset.folder import DatasetFolder, OpenFile, read_error, read_errors, read_into
from tst_data.errors import DamagedDataError, TSTError

__all__ = ["TableFile"]

_TRAILER_BYTES = 8
"""A Parquet file ends with the length of its footer and four letters."""


class TableFile:
    """The file. Its last column is the large one. Safe to use from several threads."""

    def __init__(self, folder: DatasetFolder, name: str, column_names: list[str], expected_hash: str | None) -> None:
        """Read and verify it. Raises DamagedDataError where it has other columns or another xxh3_128 than expected."""
        self._folder = folder
        self._name = name
        self._path = folder.path / name
        self._large_column = column_names[-1]
        with folder.open(name) as file, read_errors(self._path):
            self._num_bytes = file.status.st_size
            self._begin = _FileBytes(self._num_bytes)
            try:
                footer_start = self._read_footer(file)
                self.metadata = self._parse_footer(column_names)
                self._ranges = self._large_ranges(footer_start)
            except DamagedDataError:
                self._ranges = []
                self._check_hash(self._read_rest(file, self._num_bytes), expected_hash)
                raise  # it is what was written, and no table
            self._check_hash(self._read_rest(file, footer_start), expected_hash)

    def _check_hash(self, actual: str, expected: str | None) -> None:
        if expected is not None and actual != expected:
            raise DamagedDataError(f"{self._path}: has hash {actual}, expected {expected}; restore it from a copy")

    def read_at_opening(self, columns: list[str]) -> pa.Table:
        """Some of the small columns, of all row groups. Only once: their bytes are given back."""
        begin, self._begin = self._begin, _FileBytes(0)
        try:
            with begin.parquet(self.metadata) as file:
                return pa.concat_tables(
                    file.read_row_group(group, columns=columns, use_threads=False)
                    for group in range(file.num_row_groups)
                )
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise self._error_of(error) from None

    def read_large_column(self, group: int) -> pa.ChunkedArray:
        """The large column of one row group. Raises DamagedDataError where its bytes are not those of the opening."""
        return self._folder.retry_restored(lambda: self._read_large_column(group))

    def _read_large_column(self, group: int) -> pa.ChunkedArray:
        start, end, expected = self._ranges[group]
        part = _FileBytes(self._num_bytes)
        with self._folder.open(self._name) as file, read_errors(self._path):
            view = part.read(file, start, end)
        if _hash_of(view) != expected:
            raise DamagedDataError(
                f"{self._path}: was changed since the dataset was opened (bytes {start} to {end - 1}); restore it from "
                "a copy"
            )
        try:
            with part.parquet(self.metadata) as parquet:
                return parquet.read_row_group(group, columns=[self._large_column], use_threads=False).column(0)
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise self._error_of(error) from None

    def _read_footer(self, file: OpenFile) -> int:
        """Where the footer begins. It is read before everything else, because it says where the columns are."""
        end = max(0, self._num_bytes - _TRAILER_BYTES)
        length = int.from_bytes(self._begin.read(file, end, self._num_bytes)[:4], "little")
        start = end - length if length < end else end
        self._begin.read(file, start, end)
        return start

    def _parse_footer(self, column_names: list[str]) -> pq.FileMetaData:
        try:
            with self._begin.parquet() as parquet:
                metadata, names = parquet.metadata, parquet.schema_arrow.names
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise self._error_of(error) from None
        if names != column_names:
            raise DamagedDataError(
                f"{self._path}: has columns {names}, expected {column_names}; restore it from a copy"
            )
        return metadata

    def _large_ranges(self, footer_start: int) -> list[tuple[int, int, bytes]]:
        """Where the large column's bytes are, one row group after another; their hashes are not known yet."""
        ranges: list[tuple[int, int, bytes]] = []
        end = 0
        for group in range(self.metadata.num_row_groups):
            row_group = self.metadata.row_group(group)
            column = row_group.column(row_group.num_columns - 1)
            start = column.dictionary_page_offset or column.data_page_offset
            if not end <= start <= start + column.total_compressed_size <= footer_start:
                raise DamagedDataError(f"{self._path}: its row groups overlap; restore it from a copy")
            end = start + column.total_compressed_size
            ranges.append((start, end, b""))
        return ranges

    def _read_rest(self, file: OpenFile, footer_start: int) -> str:
        """Read what comes before the footer, keep what is parsed at opening, and hash everything -> the file's hash."""
        whole = xxhash.xxh3_128()
        buffer = memoryview(bytearray(max((end - start for start, end, _ in self._ranges), default=0)))
        done = 0
        for group, (start, end, _) in enumerate(self._ranges):
            whole.update(self._begin.read(file, done, start))
            large = buffer[: end - start]
            read_into(large, file, start)
            whole.update(large)
            self._ranges[group] = (start, end, _hash_of(large))
            done = end
        whole.update(self._begin.read(file, done, footer_start))
        whole.update(self._begin.view(footer_start, self._num_bytes))  # read before, and parsed: not read again
        return whole.hexdigest()

    def _error_of(self, error: Exception) -> TSTError:
        """pyarrow reads from memory here: its errors say that the bytes are not a table, or that memory is used up."""
        if isinstance(error, MemoryError):
            return read_error(self._path, error)
        first_line = str(error).partition("\n")[0]
        return DamagedDataError(f"{self._path}: cannot be read ({first_line}); restore it from a copy")


class _FileBytes:
    """The bytes of the file that were read, at their places in a buffer of the file's size; the others are zero.

    The buffer is anonymous memory: pages that were not read take none, and all go back to the kernel at once.
    """

    def __init__(self, num_bytes: int) -> None:
        self._buffer = mmap.mmap(-1, max(1, num_bytes))
        self._num_bytes = num_bytes

    def view(self, start: int, end: int) -> memoryview:
        return memoryview(self._buffer)[start:end]

    def read(self, file: OpenFile, start: int, end: int) -> memoryview:
        """Read these bytes of the file -> the part of the buffer that holds them."""
        view = self.view(start, end)
        read_into(view, file, start)
        return view

    def parquet(self, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
        return pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._buffer).slice(0, self._num_bytes)), metadata=metadata)


def _hash_of(data: memoryview) -> bytes:
    """xxh3_128 of bytes. `update` releases the interpreter's lock, the functions of one call do not."""
    state: Any = xxhash.xxh3_128()
    state.update(data)
    digest: bytes = state.digest()
    return digest
