"""Byte streams out of plain and compressed files, read as they come, with damage named by file.

The standard library reads gzip, xz and bzip2; Zstandard goes through `zstandard`'s decompression object, because
its stream reader takes a file cut off in mid-frame for a complete one. A stream knows how many bytes of the file
on disk it has consumed: progress and time left are measured in those, whatever they unpack to.
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
    """('a.jsonl.gz') -> ('a.jsonl', 'gzip'); a name without such a suffix comes back as it is, with None."""
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

    Raises InvalidInputError, naming the file, when its compressed bytes are damaged or cut off: also for errors
    inside the `with` block, since damage shows only where it is read.
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
        raw = lzma.LZMAFile(file)  # noqa: SIM115 (it closes with `file`)
    elif compression == "bzip2":
        raw = bz2.BZ2File(file)
    elif compression == "zstd":
        raw = _ZstdReader(file)
    return io.BufferedReader(cast("io.RawIOBase", raw), _BUFFER_BYTES)


def _damaged(name: str, compression: str | None, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{name}: damaged or cut-off {compression} file ({error}); fetch or write it anew")


class _ZstdReader(io.RawIOBase):
    """Unpacked bytes of one or more Zstandard frames; a missing end is an EOFError."""

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
                    raise EOFError("the last frame has no end")
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
