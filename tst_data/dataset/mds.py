"""Token stretches as MDS shards, made by mosaicml-streaming itself.

One fixed-size column `tokens` (`ndarray:uint16:4096`), all samples of a shard of one length: then the tokens lie
contiguous behind a header, a window is one slice of the file, and plain `streaming.StreamingDataset` reads it.
`MDSWriter` is used for its encoding and its index entries only: samples are given to it as views of the token
buffer (64 MB encoded in 0.1 s), and the files are written by ours, which syncs and renames.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xxhash

from tst_data.errors import InvalidInputError
from tst_data.streaming_compat import import_streaming

__all__ = ["FixedSampleEncoder", "ShardEncoder", "index_chunks"]

_MAXIMUM_SHARD_BYTES = (1 << 32) - 1
"""MDS stores sample offsets as uint32."""


class FixedSampleEncoder:
    """Encodes shards of samples that are `sample_bytes` long, each laid out as MDS lays out these columns."""

    def __init__(self, columns: dict[str, str], sample_bytes: int) -> None:
        self._sample_bytes = sample_bytes
        with tempfile.TemporaryDirectory() as scratch:  # the writer insists on a folder; nothing is put there
            self._writer = import_streaming().MDSWriter(
                columns=columns, out=scratch, hashes=["xxh3_64"], size_limit=None
            )

    def encode(self, samples: np.ndarray, file_name: str) -> tuple[bytes, dict[str, Any]]:
        """The bytes of a shard of these samples, end to end, and its entry in `index.json`."""
        view = np.ascontiguousarray(samples).view(np.uint8).reshape(-1).data
        num_samples, rest = divmod(len(view), self._sample_bytes)
        assert num_samples
        assert not rest
        if len(view) + 4 * num_samples + (1 << 16) > _MAXIMUM_SHARD_BYTES:
            raise InvalidInputError(f"a shard of {len(view)} bytes is too large; MDS allows under 4 GiB")
        starts = range(0, len(view), self._sample_bytes)
        self._writer.new_samples = [view[start : start + self._sample_bytes] for start in starts]
        data = self._writer.encode_joint_shard()
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

    def __init__(self, dtype: np.dtype, sample_tokens: int) -> None:
        super().__init__({"tokens": f"ndarray:{dtype.name}:{sample_tokens}"}, sample_tokens * dtype.itemsize)


def index_chunks(entries: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """The bytes of `index.json`, an entry at a time: 100,000 shards make 40 MB of it."""
    separator = b'{"shards": [\n'
    for entry in entries:
        yield separator + json.dumps(entry, sort_keys=True).encode()
        separator = b",\n"
    yield b'\n], "version": 2}\n'
