"""MDS shards without `streaming`, for test environments that do not have the extra `convert`.

The tests write small datasets. Where `streaming` is not installed, `conftest.py` puts `plain_streaming` in the place of
`import_streaming`. `tests/data/test_mds.py` compares the bytes and the index entries with those of the real library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["PlainMDSWriter", "plain_streaming"]


class PlainMDSWriter:
    """What `tst_data.dataset.mds` uses of `streaming.MDSWriter`: the caller sets `new_samples`, already encoded."""

    def __init__(self, *, columns: Mapping[str, str], out: str, hashes: Sequence[str], size_limit: int | None) -> None:
        del out  # the real writer insists on a folder; no file is written there
        names = sorted(columns)
        encodings = [columns[name] for name in names]
        self.new_samples: list[Any] = []
        self._config = {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": list(hashes),
            "size_limit": size_limit,
            "column_names": names,
            "column_encodings": encodings,
            "column_sizes": [_encoded_bytes(encoding) for encoding in encodings],
        }

    def get_config(self) -> dict[str, Any]:
        return dict(self._config)

    def encode_joint_shard(self) -> bytes:
        """The number of samples, the offsets of all samples and of the end, the configuration, the samples."""
        config = json.dumps(self._config, sort_keys=True).encode()
        count = len(self.new_samples)
        ends = np.cumsum([0, *map(len, self.new_samples)])
        offsets = (ends + 4 + 4 * (count + 1) + len(config)).astype("<u4")
        return b"".join([np.uint32(count).tobytes(), offsets.tobytes(), config, *self.new_samples])


def plain_streaming() -> Any:
    """Takes the place of `import_streaming`."""
    return SimpleNamespace(MDSWriter=PlainMDSWriter)


def _encoded_bytes(encoding: str) -> int | None:
    """Bytes of a column's value, null where values differ: `ndarray:uint16:4096`, `uint32`, `bytes`."""
    kind, _, rest = encoding.partition(":")
    if kind == "bytes":
        return None
    if kind != "ndarray":
        return np.dtype(kind).itemsize
    dtype, *shape = rest.split(":")
    return np.dtype(dtype).itemsize * prod(int(length) for length in shape[0].split(","))
