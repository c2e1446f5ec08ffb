"""What a conversion is asked for, how far it is, and what it reports at the end.

The descriptions of `Conversion` are also the help of `tst-data convert`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from tst_data.configuration import Frozen

__all__ = ["Conversion", "ConversionProgress", "ConversionReport"]


class Conversion(Frozen):
    """Everything that determines the result of a conversion, and what is refused."""

    sources: tuple[str, ...]
    """Files, folders, globs, folders saved by `datasets`, or hf://owner/name[:split]. The formats are text, JSONL
    (.jsonl .ndjson .json), CSV (.csv .tsv), Parquet and Arrow, each also compressed (.gz .zst .xz .bz2)."""
    tokenizer: str
    """A tokenizer.json, a model of sentencepiece (tokenizer.model), a folder or Hub name with one of them, `bytes`, or
    train:SIZE (trained on the sources)."""
    end_of_text: str | None = None
    """The end-of-text token, where the tokenizer does not name one."""
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the documents that go into the validation dataset, chosen by a hash of their text."""
    column: str = "text"
    """Column that holds the text, or existing token ids."""
    id_column: str | None = None
    """Column that holds the ids of the documents; null is refused. Without it an id is SOURCE#ROW."""
    lines: bool = False
    """Each line of a text file is a document."""
    include: tuple[str, ...] = ()
    """Of the files that folders and globs hold, take only those that match, such as '*.py'."""
    skip_invalid: bool = False
    """Skip documents that are not UTF-8, and count them."""
    shard_tokens: int | None = None
    """Tokens per shard, a multiple of 4096; about 64 MB by default."""
    max_lost: float = Field(default=0.001, ge=0.0, le=1.0)
    """Refuse a conversion that loses a larger share of the characters. A character is lost if it is in a piece of text
    that becomes the unknown token, or if no token stands for it."""

    def identity(self) -> dict[str, Any]:
        """The options that determine the result, as JSON. `max_lost` does not: it may be raised to resume."""
        return self.model_dump(mode="json", exclude={"max_lost"})


@dataclass(frozen=True, kw_only=True)
class ConversionProgress:
    """How far a conversion is."""

    stage: str
    """What is being done, in words."""
    documents: int = 0
    """Documents in the datasets so far, those of earlier attempts included; so also `tokens`."""
    tokens: int = 0
    bytes_done: int = 0
    """Bytes of the sources that are read or skipped, out of `bytes_total`."""
    bytes_total: int = 0
    seconds: float = 0.0
    """Time since this process began to convert; `encoded_tokens` and `encoded_bytes` count from then on too."""
    encoded_tokens: int = 0
    encoded_bytes: int = 0


class ConversionReport(Frozen):
    """What a conversion made."""

    path: str
    """The folder of the training dataset."""
    fingerprint: str
    """The fingerprint of the dataset."""
    documents: int
    """Documents in the dataset."""
    tokens: int
    """Tokens in the dataset, end-of-text tokens included."""
    shards: int
    """Shards of the dataset."""
    seconds: float
    """Time that the process took that finished the conversion."""
    tokens_per_second: float
    """Tokens that this process encoded, per second."""
    passed_over: int = 0
    """Documents that were skipped because they are not UTF-8."""
    characters: int = 0
    """Characters of the documents in the dataset; those that hold token ids have none."""
    lost_characters: int = 0
    """How many of the characters the tokenizer cannot represent; see `max_lost`."""
    encoder: str | None = None
    """Name and version of the library that encoded the texts, null where none was needed."""
    already_done: bool = False
    """Whether an earlier conversion had finished the dataset, so that nothing was done."""
    validation: ConversionReport | None = None
    """The same of the validation dataset, null without one."""
