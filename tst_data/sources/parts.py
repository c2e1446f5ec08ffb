"""Where documents come from: the sources of a conversion, as an ordered list of files and datasets.

The order is that of the sources as given, and within folders and globs files are sorted by path, so the same command
gives the same token stream on every machine. Memory holds only one document, one line or one record batch. A place in
the sources is (number of the file, row within it), so a conversion that continues after an interruption skips whole
files without opening them.

The name of a file says its format: `.jsonl .ndjson .json` for JSON lines, `.csv .tsv`, `.parquet .pq`, and
`.arrow .feather .ipc`. Everything else is text. Each may also be compressed (`.gz .zst .xz .bz2`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

import xxhash

from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.sources.columnar import read_arrow, read_parquet
from tst_data.sources.compression import open_stream, split_compression
from tst_data.sources.document import ReadOptions, SourceDocument
from tst_data.sources.hugging_face import HUB_PREFIX, HubDataset, is_saved_dataset
from tst_data.sources.paths import files_of_folder, files_of_glob, is_glob, refuse_unreadable
from tst_data.sources.text import read_csv, read_jsonl, read_text

__all__ = ["SourceFile", "SourcePart", "find_sources", "sources_digest"]

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


class SourcePart(Protocol):
    """One file or dataset of the sources."""

    name: str
    """As it was given or found; it is in the document index."""
    size_bytes: int
    bytes_read: int
    """How much of `size_bytes` has been read, for progress."""

    @property
    def identity(self) -> str:
        """Changes when the content changes: a conversion is not continued with other content."""

    def read(self, options: ReadOptions, start_row: int = 0) -> Iterator[SourceDocument]:
        """The documents in order, from row `start_row`; `bytes_read` grows with them."""


@dataclass
class SourceFile:
    """One file. Its name is its path."""

    path: Path
    name: str
    format: str
    compression: str | None
    size_bytes: int
    modified_ns: int
    bytes_read: int = field(default=0, compare=False)

    @property
    def identity(self) -> str:
        return f"{self.name}\0{self.size_bytes}\0{self.modified_ns}"

    def read(self, options: ReadOptions, start_row: int = 0) -> Iterator[SourceDocument]:
        try:
            if self.format in ("parquet", "arrow"):
                reader = read_parquet if self.format == "parquet" else read_arrow
                yield from reader(self.path, self.name, self.compression, options, start_row, self._advance)
            elif self.format == "text" and not options.lines and start_row > 0:
                pass  # the one document of the file is written already
            else:
                yield from self._read_stream(options, start_row)
        except OSError as error:
            raise InvalidInputError(
                f"{self.name}: cannot be read ({error.strerror or error}); make it readable"
            ) from error
        self.bytes_read = self.size_bytes

    def _read_stream(self, options: ReadOptions, start_row: int) -> Iterator[SourceDocument]:
        with open_stream(self.path, self.name, self.compression) as stream:
            if self.format == "jsonl":
                documents = read_jsonl(stream, self.name, options, start_row)
            elif self.format == "text":
                documents = read_text(stream, self.name, options, start_row)
            else:
                delimiter = "\t" if self.format == "tsv" else ","
                documents = read_csv(stream, self.name, options, start_row, delimiter)
            for document in documents:
                self.bytes_read = stream.bytes_read
                yield document

    def _advance(self, share: float) -> None:
        self.bytes_read = int(share * self.size_bytes)


def find_sources(sources: Sequence[str], include: Sequence[str] = ()) -> list[SourcePart]:
    """The parts of the sources, in order.

    `include` are patterns such as `*.py`: a file that is found in a folder or by a glob must match one of them, with
    its name or with its path below the folder. Raises NotFoundError for a source that does not exist, and
    InvalidInputError for a source without files and for a file that is found twice.
    """
    parts: list[SourcePart] = []
    for source in sources:
        if not source.strip():
            raise InvalidInputError(f"source '{source}': is empty; give a file, folder, glob or hf://owner/name")
        try:
            parts.extend(_parts_of(source, include))
        except OSError as error:  # a folder on the way to it cannot be read
            refuse_unreadable(error, source)
    seen: set[str] = set()
    for part in parts:
        key = os.path.realpath(part.path) if isinstance(part, SourceFile) else part.name
        if key in seen:
            raise InvalidInputError(f"{part.name}: appears twice among the sources; give each file once")
        seen.add(key)
    if not parts:
        raise InvalidInputError("sources: none given; give files, folders, globs or hf://owner/name")
    return parts


def sources_digest(parts: Sequence[SourcePart]) -> str:
    """A hash over names, sizes and modification times of all parts, 16 hex digits."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part.identity.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def _parts_of(source: str, include: Sequence[str]) -> list[SourcePart]:
    if source.startswith(HUB_PREFIX):
        return [HubDataset.on_hub(source)]
    path = Path(source)
    if path.is_dir():
        return [HubDataset.saved(path)] if is_saved_dataset(path) else list(_folder(path, source, include))
    if path.exists():
        return [_file(path)]
    if is_glob(source):
        found = files_of_glob(source, lambda match: _included(match.name, str(match), include))
        if not found:
            raise NotFoundError(f"{source}: no file matches; check the pattern (`**` crosses folders)")
        return [_file(match) for match in found]
    raise NotFoundError(
        f"{source}: no such file or folder; give the path of a local one, or {HUB_PREFIX}owner/name for the Hub"
    )


def _folder(folder: Path, source: str, include: Sequence[str]) -> list[SourceFile]:
    found = files_of_folder(folder, lambda path: _included(path.name, path.relative_to(folder).as_posix(), include))
    if not found:
        wanted = f" matching {' or '.join(include)}" if include else ""
        raise InvalidInputError(f"{source}: the folder holds no files{wanted} (hidden ones do not count); give another")
    return [_file(path) for path in found]


def _included(name: str, path: str, include: Sequence[str]) -> bool:
    return not include or any(fnmatch(name, pattern) or fnmatch(path, pattern) for pattern in include)


def _file(path: Path) -> SourceFile:
    if not path.is_file():
        raise InvalidInputError(f"{path}: is not a regular file; give a file, a folder or a glob")
    stem, compression = split_compression(path.name)
    status = path.stat()
    return SourceFile(
        path=path,
        name=os.fsencode(path.as_posix()).decode(errors="backslashreplace"),  # two names stay two, \xe9 and \xe8
        format=_FORMATS.get(os.path.splitext(stem)[1].lower(), "text"),
        compression=compression,
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )
