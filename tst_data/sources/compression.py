"""The bytes of plain and compressed files as streams; an error for damaged bytes names the file.

The standard library reads gzip, xz and bzip2. For Zstandard the decompression object of `zstandard` is used, because
its stream reader accepts a file that ends in the middle of a frame. A stream knows how many bytes of the file on disk
it has read. Progress and time left are measured in those, because nobody knows how many bytes they unpack to.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from tst_data.errors import InvalidInputError

__all__ = ["COMPRESSIONS", "SourceStream", "open_stream", "split_compression"]

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}
"""File name suffix -> name of the compression."""

_BUFFER_BYTES = 1 << 20


def split_compression(name: str) -> tuple[str, str | None]:
    """'a.jsonl.gz' becomes ('a.jsonl', 'gzip'); a name without such a suffix stays as it is, with None."""
    for suffix, compression in COMPRESSIONS.items():
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], compression
    return name, None


class SourceStream:
    """The unpacked bytes of one file. `bytes_read` counts bytes of the file on disk."""

    def __init__(self, file: IO[bytes], unpacked: io.BufferedIOBase) -> None:
        self._file = file
        self._unpacked = unpacked
        self.readline = unpacked.readline
        self.read = unpacked.read

    @property
    def bytes_read(self) -> int:
        return self._file.tell()

    @property
    def unpacked(self) -> io.BufferedIOBase:
        return self._unpacked


@contextmanager
def open_stream(path: Path, name: str, compression: str | None) -> Iterator[SourceStream]:
    """Open a file for reading as unpacked bytes.

    Raises InvalidInputError, naming the file, where its compressed bytes are damaged or incomplete: also inside the
    `with` block, because damage is found only when it is read.
    """
    with open(path, "rb", buffering=0) as file:
        try:
            yield SourceStream(file, _unpacked(file, compression))
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise _damaged(name, compression, error) from error
        except OSError as error:
            if compression is None or error.errno is not None:
                raise
            raise _damaged(name, compression, error) from error


def _unpacked(file: IO[bytes], compression: str | None) -> io.BufferedIOBase:
    raw: Any = file
    if compression == "gzip":
        raw = gzip.GzipFile(fileobj=file)
    elif compression == "xz":
        raw = lzma.LZMAFile(file)  # noqa: SIM115 (closed together with `file`)
    elif compression == "bzip2":
        raw = bz2.BZ2File(file)
    elif compression == "zstd":
        raw = _ZstdReader(file)
    return io.BufferedReader(cast("io.RawIOBase", raw), _BUFFER_BYTES)


def _damaged(name: str, compression: str | None, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{name}: damaged or incomplete {compression} file ({error}); fetch or write it again")


class _ZstdReader(io.RawIOBase):
    """The unpacked bytes of one or more Zstandard frames. Raises EOFError where the last one is not complete."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file = file
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._packed:
                self._packed = self._file.read(_BUFFER_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the last frame is not complete")
                return 0
            self._frame = self._frame or self._new_frame()
            try:
                self._ready = memoryview(self._frame.decompress(self._packed))
            except self._error as error:
                raise EOFError(str(error)) from error
            self._packed = b""
            if self._frame.eof:
                self._packed = self._frame.unused_data
                self._frame = None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
