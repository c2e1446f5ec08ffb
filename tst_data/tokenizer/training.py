"""A byte-level BPE tokenizer trained on the documents of a conversion: `--tokenizer train:4096`.

It needs no download, fits the text of the source, and knows every byte, so there is no unknown token. Training
counts words in memory, and its time grows with the text. So above SAMPLE_BYTES of source only a part of the documents
is used, chosen by a hash of their text: neither their order nor the number of processes changes the choice. More than
a few hundred megabytes hardly change a vocabulary. The same documents give the same tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import xxhash

from tst_data.tokenizer.json_tokenizer import JSONTokenizer

__all__ = ["SAMPLE_BYTES", "sampled", "train_tokenizer"]

SAMPLE_BYTES = 256 << 20
"""Above this size of the sources a part of the documents is used."""

_END_OF_TEXT = "<|endoftext|>"
_SAMPLE_SEED = 0x7472_6169_6E
_MAX_PIECE_CHARACTERS = 1 << 20


def sampled(texts: Iterable[bytes], source_bytes: int) -> Iterator[bytes]:
    """The documents to train on: about SAMPLE_BYTES of the `source_bytes` that the sources have."""
    threshold = (1 << 64) if source_bytes <= SAMPLE_BYTES else (SAMPLE_BYTES << 64) // source_bytes
    taken_bytes = 0
    for text in texts:
        if xxhash.xxh3_64_intdigest(text, seed=_SAMPLE_SEED) < threshold:
            yield text
            taken_bytes += len(text)
            if taken_bytes >= 4 * SAMPLE_BYTES:  # a compressed source holds more text than it has bytes
                return


def train_tokenizer(texts: Iterable[bytes], vocabulary_size: int) -> JSONTokenizer:
    """A tokenizer of `vocabulary_size` ids, or fewer where a small text has no more pairs to merge."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(_pieces(texts), trainer)
    name = f"train:{vocabulary_size}"
    return JSONTokenizer(json.loads(library.to_str()), name=name, kind="trained", end_of_text=_END_OF_TEXT)


def _pieces(texts: Iterable[bytes]) -> Iterator[str]:
    """The texts, cut into pieces of at most a million characters: the trainer holds a few hundred at a time."""
    for text in texts:
        characters = text.decode()
        for start in range(0, len(characters), _MAX_PIECE_CHARACTERS):
            yield characters[start : start + _MAX_PIECE_CHARACTERS]
