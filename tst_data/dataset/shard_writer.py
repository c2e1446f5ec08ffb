"""The two files of one shard: the shard itself and the documents that begin in it.

Both are written whole and synced before they are reported, so a line in the journal may follow at once. Encoding a
shard takes three times its bytes in memory.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.dataset.document_index import DocumentColumns, parquet_bytes
from tst_data.dataset.manifest import document_file_name, shard_file_name
from tst_data.dataset.mds import ShardEncoder
from tst_data.dataset.shard_table import ShardRecord, piece_hashes
from tst_data.durable_files import hash_bytes, write_atomically

__all__ = ["ShardWriter"]


class ShardWriter:
    """Writes shards of samples of `sample_tokens` tokens into a dataset folder."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], sample_tokens: int) -> None:
        self._folder = folder
        self._dtype = dtype
        self._sample_tokens = sample_tokens
        self._encoders: dict[int, ShardEncoder] = {}

    def write(self, shard: int, tokens: NDArray[Any], documents: DocumentColumns) -> tuple[ShardRecord, dict[str, Any]]:
        """Write the files of a shard; gives its row of the shard table and its entry in `index.json`.

        `tokens` are whole samples, or fewer tokens than one sample: those are a sample of their own length.
        """
        sample_tokens = min(len(tokens), self._sample_tokens)
        file_name = shard_file_name(shard)
        data, index_entry = self._encoder(sample_tokens).encode(tokens, file_name)
        document_data = parquet_bytes(documents.table())
        write_atomically(self._folder / document_file_name(shard), document_data)
        write_atomically(self._folder / file_name, data)
        record = ShardRecord(
            file=file_name,
            samples=len(tokens) // sample_tokens,
            sample_tokens=sample_tokens,
            tokens=len(tokens),
            num_bytes=len(data),
            token_offset=len(data) - tokens.nbytes,
            num_documents=len(documents),
            hash=hashlib.sha256(tokens.data).digest(),
            documents_hash=bytes.fromhex(hash_bytes(document_data)),
            pieces=piece_hashes(data),
        )
        return record, index_entry

    def _encoder(self, sample_tokens: int) -> ShardEncoder:
        if sample_tokens not in self._encoders:
            self._encoders[sample_tokens] = ShardEncoder(self._dtype, sample_tokens)
        return self._encoders[sample_tokens]
