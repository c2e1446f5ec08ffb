"""What is fixed for all shards of a dataset before the first token is written: vocabulary, dtype, and lengths.

The values are checked here, and so is each document against them. A journal holds them, so that an interrupted
dataset is continued only with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tst_data.dataset.manifest import TokenDtype, dtype_for
from tst_data.errors import InvalidInputError

__all__ = ["DEFAULT_SAMPLE_TOKENS", "DatasetLayout", "default_shard_tokens"]

DEFAULT_SAMPLE_TOKENS = 4096
_DEFAULT_SHARD_BYTES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class DatasetLayout:
    """Vocabulary, dtype and lengths; `choose` makes one whose values fit together."""

    vocabulary_size: int
    """Number of token ids."""
    end_of_text_id: int
    """Token that closes each document."""
    dtype: TokenDtype
    """Type of the stored ids."""
    sample_tokens: int
    """Tokens of one MDS sample."""
    shard_tokens: int
    """Tokens of one shard: a multiple of `sample_tokens`."""

    @classmethod
    def choose(
        cls,
        *,
        vocabulary_size: int,
        end_of_text_id: int,
        dtype: str | None,
        sample_tokens: int,
        shard_tokens: int | None,
    ) -> Self:
        """The layout with these values; the narrowest dtype and shards of about 64 MB where they are None.

        Raises InvalidInputError for values that cannot be stored together.
        """
        chosen = _checked_dtype(dtype, vocabulary_size)
        if sample_tokens < 1:
            raise InvalidInputError(f"sample_tokens: expected at least 1 (given: {sample_tokens})")
        if shard_tokens is None:
            shard_tokens = default_shard_tokens(chosen, sample_tokens)
        if shard_tokens < 1 or shard_tokens % sample_tokens:
            raise InvalidInputError(
                f"shard_tokens: expected a multiple of the {sample_tokens} tokens of a sample (given: {shard_tokens})"
            )
        if not 0 <= end_of_text_id < vocabulary_size:
            raise InvalidInputError(
                f"end_of_text_id: {end_of_text_id} is outside the vocabulary of {vocabulary_size} tokens; give one of "
                "its ids"
            )
        return cls(
            vocabulary_size=vocabulary_size,
            end_of_text_id=end_of_text_id,
            dtype=chosen,
            sample_tokens=sample_tokens,
            shard_tokens=shard_tokens,
        )

    def checked(self, tokens: NDArray[Any] | Sequence[int], *, source: str, row: int) -> NDArray[Any]:
        """The token ids of a document as an array. Raises InvalidInputError naming source and row."""
        values = np.asarray(tokens)
        if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
            raise InvalidInputError(f"{source}, row {row}: expected a list of token ids, closed by end-of-text")
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.vocabulary_size:
            raise InvalidInputError(
                f"{source}, row {row}: token id {high if low >= 0 else low} is outside the vocabulary of "
                f"{self.vocabulary_size} tokens; use the tokenizer that made the ids"
            )
        if values[-1] != self.end_of_text_id:
            raise InvalidInputError(
                f"{source}, row {row}: ends with token {int(values[-1])}, expected end-of-text {self.end_of_text_id}; "
                "add it"
            )
        return values


def default_shard_tokens(dtype: str, sample_tokens: int) -> int:
    """Tokens of a shard file of about 64 MB, a multiple of the sample's length."""
    samples = _DEFAULT_SHARD_BYTES // (sample_tokens * np.dtype(dtype).itemsize)
    return max(1, samples) * sample_tokens


def _checked_dtype(dtype: str | None, vocabulary_size: int) -> TokenDtype:
    narrowest = dtype_for(vocabulary_size)
    if dtype is None or dtype == narrowest:
        return narrowest
    if dtype != "uint32":
        raise InvalidInputError(
            f"dtype: '{dtype}' cannot hold a vocabulary of {vocabulary_size} tokens; use {narrowest}"
        )
    return "uint32"
