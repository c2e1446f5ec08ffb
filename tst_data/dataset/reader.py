"""A dataset on disk, opened for reading: tokens by position in the token stream, and the documents they come from.

Opening reads the manifest and the scalar columns of the shard table (O(shards): 100,000 in 0.3 s and 85 MB) and opens
no shard. It holds the folder itself (`folder`) and hashes of what was verified, so a folder that is replaced under an
open dataset gives its own data or an error, never the new folder's. Tokens are verified piece by piece when they are
first read, and copied out of memory maps; see `shard_reader`. Reading and checking everything, or a sample, is in
`verification`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tst_data.dataset.disk_check import DiskCheck
from tst_data.dataset.document_index import Document, DocumentIndex
from tst_data.dataset.folder import DatasetFolder, read_errors
from tst_data.dataset.id_check import IdCheck
from tst_data.dataset.manifest import MANIFEST_NAME, SHARD_TABLE_NAME, Manifest, read_manifest
from tst_data.dataset.map_cache import MapCache, default_map_cache
from tst_data.dataset.shard_reader import ShardFiles, ShardRead, read_shards
from tst_data.dataset.shard_table import PIECE_BYTES, ShardTable
from tst_data.dataset.verification import Verified, Verifier, check_table, read_verified
from tst_data.dataset.window_copy import copy_windows
from tst_data.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from tst_data.tokenizer.base import Tokenizer

__all__ = ["Dataset", "open_dataset", "read_windows"]


def open_dataset(path: str | Path, *, max_maps: int | None = None) -> Dataset:
    """Open a dataset folder for reading.

    With `max_maps` the dataset has a cache of its own that keeps at most that many shards mapped; without, all
    datasets of the process share one. Raises NotFoundError, InvalidInputError (not a dataset, not finished, other
    format), DamagedDataError (manifest or shard table changed) or UnavailableError (they cannot be read now).
    """
    if re.match("[a-z][a-z0-9]+:/", str(path)):
        raise InvalidInputError(f"dataset '{path}': only folders can be opened; copy it to a disk and give that folder")
    folder = DatasetFolder(Path(path).absolute())
    manifest = read_manifest(folder)
    table = ShardTable(folder, manifest.files.get(SHARD_TABLE_NAME, "no hash"))
    check_table(folder.path, manifest, table)
    return Dataset(folder, manifest, table, default_map_cache() if max_maps is None else MapCache(max_maps))


class Dataset:
    """An opened dataset. Safe to use from several threads, also in forked processes; made by `open_dataset`."""

    def __init__(self, folder: DatasetFolder, manifest: Manifest, table: ShardTable, cache: MapCache) -> None:
        self.path = folder.path
        self.manifest = manifest
        self.dtype = np.dtype(manifest.dtype)
        self.num_tokens = manifest.num_tokens
        self.num_shards = len(table)
        self.shard_tokens = table.tokens
        """Tokens of each shard in stream order, int64 (num_shards,)."""
        self.shard_first_token = np.cumsum(table.tokens) - table.tokens
        """Position of each shard's first token in the token stream, int64 (num_shards,)."""
        self.shard_pieces: NDArray[np.int64] = -(-table.num_bytes // PIECE_BYTES)
        """Pieces of each shard, int64 (num_shards,)."""
        self._folder = folder
        self._table = table
        self._files = ShardFiles(folder, table, cache, IdCheck(self.path, manifest, table))
        self._documents = DocumentIndex(folder, table)

    @property
    def fingerprint(self) -> str:
        """The dataset's identity, 64 hex digits."""
        return self.manifest.fingerprint

    @property
    def shard_hashes(self) -> NDArray[np.uint8]:
        """sha256 of each shard's tokens in stream order, (num_shards, 32)."""
        return self._table.hashes

    @property
    def num_bytes(self) -> int:
        """Bytes of all shard files."""
        return int(self._table.num_bytes.sum())

    @property
    def written_at(self) -> float:
        """When the manifest was written, in seconds since 1970."""
        return self._folder.status(MANIFEST_NAME).st_mtime

    @property
    def num_pieces(self) -> int:
        """Pieces of 1 MiB of all shard files."""
        return int(self.shard_pieces.sum())

    def read(self, first_token: int, num_tokens: int) -> NDArray[Any]:
        """Tokens (num_tokens,) from `first_token` on, over any number of shards. A copy, in the dataset's dtype.

        Raises DamagedDataError where a shard is not what was written, UnavailableError where it cannot be read now.
        """
        self._check_range(first_token, num_tokens)
        tokens = np.empty(num_tokens, self.dtype)
        done = 0
        while done < num_tokens:
            shard = int(np.searchsorted(self.shard_first_token, first_token + done, side="right")) - 1
            within = first_token + done - int(self.shard_first_token[shard])
            length = min(num_tokens - done, int(self.shard_tokens[shard]) - within)
            self._copy_tokens(shard, within, tokens[done : done + length])
            done += length
        return tokens

    def _copy_tokens(self, shard: int, within: int, out: NDArray[Any]) -> None:
        """Copy the tokens of a shard from its token `within` on."""
        start = int(self._table.token_offset[shard]) + within * self.dtype.itemsize
        target = out.view(np.uint8)

        def copy(maps: list[NDArray[np.uint8]]) -> None:
            target[...] = maps[0][start : start + len(target)]

        read_shards([ShardRead(self._files, shard, np.array([start]), len(target))], copy)

    def _places(self, firsts: NDArray[np.int64], window_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard of each window, and the byte of its file at which the window begins."""
        shards = np.searchsorted(self.shard_first_token, firsts, side="right") - 1
        within = firsts - self.shard_first_token[shards]
        outside = (firsts < 0) | (within + window_length > self.shard_tokens[shards])
        if outside.any():
            raise InvalidInputError(
                f"first_tokens: the window of {window_length} tokens at {firsts[outside][0]} is not within one shard; "
                "give first tokens of a plan"
            )
        return shards, self._table.token_offset[shards] + within * self.dtype.itemsize

    def documents(self, first_token: int, num_tokens: int) -> list[Document]:
        """The documents that share a token with the range, in stream order. Raises as `read`."""
        self._check_range(first_token, num_tokens)
        return self._documents.find(first_token, num_tokens)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens, from the files in the folder; read and verified once."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        names = [name for name in self.manifest.files if name.startswith("tokenizer")]
        if not names:
            raise NotFoundError(
                f"dataset '{self.path}': holds no tokenizer; give a dataset that `tst-data convert` made"
            )

        # The verified bytes are parsed: files that are opened by name could be others.
        def read() -> dict[str, bytes]:
            return {name: read_verified(self._folder, name, self.manifest.files[name]) for name in names}

        files = self._folder.retry_restored(read)
        with read_errors(self.path):  # importing reads files too
            from tst_data.tokenizer.loading import parse_saved_tokenizer

            return parse_saved_tokenizer(self.path, files)

    def verify(self, progress: Callable[[int], None] | None = None, *, sample: float | None = None) -> Verified:
        """Read everything and compare it with what was written; `progress` is given the bytes read since its last call.

        With `sample`, only that share of the pieces of all shards and of the document files is read, at random, and the
        sizes of all shards are compared. Raises DamagedDataError naming the file, and the piece of a
        shard, or UnavailableError.
        """
        return self._verifier().verify(progress or (lambda num_bytes: None), sample)

    def check_files(self) -> None:
        """Compare the name and size of every shard file with what was written, without reading them.

        Not done at opening: 100,000 files take 0.4 s on a local disk. Raises as `read`.
        """
        self._verifier().check_files()

    def pieces(self, shard: int) -> NDArray[np.uint64]:
        """The hash of each piece of 1 MiB of a shard. Raises as `read`."""
        return self._table.pieces(shard)

    def check_on_disk(self, disk: DiskCheck, shard: int, piece: int, expected: int) -> None:
        """Raise unless a piece has the `expected` hash, read past the page cache. Raises as `read`."""
        self._folder.retry_restored(lambda: disk.check(self._files, shard, piece, expected))

    def distrust(self, shard: int, piece: int) -> None:
        """Verify a piece again before its next use. Does nothing where the dataset has no such piece."""
        self._files.distrust(shard, piece)

    def _verifier(self) -> Verifier:
        return Verifier(self._folder, self.manifest, self._table, self._files)

    def close(self) -> None:
        """Release the maps and the folder. A later read opens them again."""
        self._files.close()
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_range(self, first_token: int, num_tokens: int) -> None:
        if first_token < 0 or num_tokens < 0 or first_token + num_tokens > self.num_tokens:
            raise InvalidInputError(
                f"dataset '{self.path}': has {self.num_tokens} tokens, but {num_tokens} from token {first_token} on "
                "were asked for; ask for tokens within it"
            )


def read_windows(
    datasets: Sequence[Dataset], dataset: NDArray[np.integer[Any]], first_tokens: NDArray[np.int64], window_length: int
) -> NDArray[Any]:
    """The window of `datasets[dataset[i]]` that begins at `first_tokens[i]`, for each i: (n, window length).

    The datasets have one dtype. Each window must be within one shard. One pass over memory copies
    the windows of all shards in the order of the rows. Raises as `Dataset.read`.
    """
    dtype = datasets[0].dtype
    num_bytes = window_length * dtype.itemsize
    starts = np.empty(len(first_tokens), np.int64)
    read_numbers = np.empty(len(first_tokens), np.intp)
    reads: list[ShardRead] = []
    for number, of_dataset in enumerate(datasets):
        rows = np.flatnonzero(dataset == number)
        shards, starts[rows] = of_dataset._places(first_tokens[rows], window_length)
        used, counts = np.unique(shards, return_counts=True)
        rows = rows[np.argsort(shards, kind="stable")]
        read_numbers[rows] = np.repeat(np.arange(len(reads), len(reads) + len(used)), counts)
        of_shards = np.split(rows, np.cumsum(counts))
        reads += [
            ShardRead(of_dataset._files, shard, starts[of_shard], num_bytes)
            for shard, of_shard in zip(used.tolist(), of_shards[: len(used)], strict=True)
        ]
    windows: NDArray[Any] = _copy_rows(reads, read_numbers, starts, num_bytes).view(dtype)
    return windows


def _copy_rows(
    reads: Sequence[ShardRead], read_numbers: NDArray[np.intp], starts: NDArray[np.int64], num_bytes: int
) -> NDArray[np.uint8]:
    """The windows that begin at byte `starts[i]` of the shard of `reads[read_numbers[i]]`: (n, num_bytes)."""
    # All maps of a pass are held at the same time: never more than a quarter of what the cache may keep.
    at_once = max(1, min((read.files.num_maps for read in reads), default=0) // 4)
    if 0 < len(reads) <= at_once:
        return read_shards(reads, lambda maps: copy_windows(maps, read_numbers, starts, num_bytes))
    windows = np.empty((len(starts), num_bytes), np.uint8)
    for begin in range(0, len(reads), at_once):
        rows = np.flatnonzero((read_numbers >= begin) & (read_numbers < begin + at_once))
        windows[rows] = _copy_rows(reads[begin : begin + at_once], read_numbers[rows] - begin, starts[rows], num_bytes)
    return windows
