"""Samples as MDS shards, encoded by mosaicml-streaming itself.

A token shard has one fixed-size column `tokens` (`ndarray:uint16:4096`), and all its samples have one length. So the
tokens are contiguous after a header, a window is one slice of the file, and plain `streaming.StreamingDataset` reads
it. `MDSWriter` is used only for its encoding and its index entries: the samples are given to it as views of the token
buffer (64 MB are encoded in 0.1 s), and the files are written here, where they are synced and renamed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tst_data.errors import InvalidInputError
from tst_data.streaming_compat import import_streaming

__all__ = ["FixedSampleEncoder", "ShardEncoder", "index_chunks"]

_MAXIMUM_SHARD_BYTES = (1 << 32) - 1
"""MDS stores sample offsets as uint32."""


class FixedSampleEncoder:
    """Encodes shards of samples that are `sample_bytes` long, each laid out as MDS lays out these columns."""

    def __init__(self, columns: dict[str, str], sample_bytes: int) -> None:
        self._sample_bytes = sample_bytes
        with tempfile.TemporaryDirectory() as scratch:  # the writer asks for a folder; nothing is put into it
            self._writer = import_streaming().MDSWriter(
                columns=columns, out=scratch, hashes=["xxh3_64"], size_limit=None
            )

    def encode(self, samples: NDArray[Any], file_name: str) -> tuple[bytes, dict[str, Any]]:
        """The bytes of a shard of these samples, end to end, and its entry in `index.json`."""
        view = np.ascontiguousarray(samples).view(np.uint8).reshape(-1).data
        num_samples, rest = divmod(len(view), self._sample_bytes)
        assert num_samples
        assert not rest
        if len(view) + 4 * num_samples + (1 << 16) > _MAXIMUM_SHARD_BYTES:
            raise InvalidInputError(
                f"{file_name}: {len(view)} bytes are too many for a shard, MDS allows under 4 GiB; make it smaller"
            )
        starts = range(0, len(view), self._sample_bytes)
        self._writer.new_samples = [view[start : start + self._sample_bytes] for start in starts]
        data: bytes = self._writer.encode_joint_shard()
        self._writer.new_samples = []
        raw_data = {
            "basename": file_name,
            "bytes": len(data),
            "hashes": {"xxh3_64": xxhash.xxh3_64_hexdigest(data)},
        }
        entry = {"samples": num_samples, "raw_data": raw_data, "zip_data": None}
        return data, entry | self._writer.get_config()


class ShardEncoder(FixedSampleEncoder):
    """Encodes token shards whose samples all have `sample_tokens` tokens of `dtype`."""

    def __init__(self, dtype: np.dtype[Any], sample_tokens: int) -> None:
        super().__init__({"tokens": f"ndarray:{dtype.name}:{sample_tokens}"}, sample_tokens * dtype.itemsize)


def index_chunks(entries: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """The bytes of `index.json`, one entry at a time: for 100,000 shards they are 40 MB."""
    separator = b'{"shards": [\n'
    for entry in entries:
        yield separator + json.dumps(entry, sort_keys=True).encode()
        separator = b",\n"
    yield b'\n], "version": 2}\n'
