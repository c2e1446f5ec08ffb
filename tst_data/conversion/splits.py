"""Which documents are for training and which for validation, and where the two datasets go.

A keyed hash of a document's text decides. So the same text is on the same side in every conversion, wherever it
appears, and a smaller share of validation documents is part of every larger one.
"""

from __future__ import annotations

from pathlib import Path

import xxhash

from tst_data.sources.document import SourceDocument

__all__ = ["TRAINING", "VALIDATION", "in_validation", "split_destinations", "split_of", "validation_path"]

TRAINING = "training"
VALIDATION = "validation"

_SEED = 0x7661_6C69_6461_7465
"""Key of the hash. It may never change: the same text must be on the same side in every version."""


def in_validation(content: bytes, share: float) -> bool:
    """Whether a document with this text (UTF-8), or these ids (little-endian int64), is for validation."""
    return xxhash.xxh3_64_intdigest(content, seed=_SEED) < share * 2.0**64


def split_of(document: SourceDocument, share: float) -> str:
    """The split of a document, where `share` of all documents are for validation."""
    if not share:
        return TRAINING
    if document.tokens is not None:
        content = document.tokens.astype("<i8", copy=False).tobytes()
    else:
        content = document.text or b""
    return VALIDATION if in_validation(content, share) else TRAINING


def validation_path(destination: Path) -> Path:
    """The folder of the validation dataset that belongs to the dataset at `destination`."""
    return destination.with_name(f"{destination.name}-validation")


def split_destinations(destination: Path, share: float) -> dict[str, Path]:
    """The folder of each split, in the order in which they are moved there.

    The training dataset is the last. When it is in its place, both datasets are.
    """
    destinations = {VALIDATION: validation_path(destination)} if share else {}
    return {**destinations, TRAINING: destination}
