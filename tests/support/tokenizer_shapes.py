"""Small tokenizers of every family, and texts that are hard for them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from tst_data.tokenizer.json_tokenizer import JSONTokenizer

__all__ = [
    "CONTROL",
    "FAMILIES",
    "SPECIAL",
    "USER_DEFINED",
    "definition_of",
    "hard_texts",
    "load",
    "sentencepiece_model",
]

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
CONTROL, USER_DEFINED = "<control>", "<user>"
"""An added token that is special, and one that is not: a text is meant to give it."""

_REPOSITORY = Path(__file__).resolve().parents[2]


def load(definition: dict[str, Any], end_of_text: str | None = "</s>") -> JSONTokenizer:
    return JSONTokenizer(definition, name="test", kind="huggingface", end_of_text=end_of_text)


@cache
def _lines() -> list[str]:
    pages = sorted((_REPOSITORY / "docs").rglob("*.md"))
    return [line for page in pages for line in page.read_text().splitlines(keepends=True)][:3000]


def _saved(library: Any, *, marked: bool = True) -> dict[str, Any]:
    from tokenizers import AddedToken

    if marked:
        library.add_special_tokens([*SPECIAL, CONTROL])
        library.add_tokens([AddedToken(USER_DEFINED, normalized=False)])
    return cast("dict[str, Any]", json.loads(library.to_str()))


def _byte_level(**options: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE(**options))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(_lines(), trainer)
    return library


def byte_level() -> dict[str, Any]:
    return _saved(_byte_level())


def byte_level_ignoring_merges() -> dict[str, Any]:
    """The shape of Llama 3: a word that is an entry is taken as it is. Here without marks on the special entries."""
    definition = _saved(_byte_level())
    definition["model"]["ignore_merges"] = True
    definition["pre_tokenizer"]["use_regex"] = False
    definition["added_tokens"] = []
    return definition


def byte_level_with_merges_of_special() -> dict[str, Any]:
    """Trained on text with tags: merges make `</s>`, and then `</s>` with the letter a."""
    definition = _saved(_byte_level())
    definition["pre_tokenizer"]["use_regex"] = False
    model = definition["model"]
    for first, second in (("<", "/"), ("</", "s"), ("</s", ">"), ("</s>", "a")):
        model["vocab"].setdefault(first + second, max(model["vocab"].values()) + 1)
        model["merges"].append([first, second])
    added = max(model["vocab"].values()) + 1
    for token in definition["added_tokens"]:
        if token["content"] in (CONTROL, USER_DEFINED):
            token["id"], added = added, added + 1
    return definition


def byte_fallback() -> dict[str, Any]:
    """The shape of Llama 2."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    library = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    prepare = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    library.normalizer = normalizers.Sequence(prepare)
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *pieces], show_progress=False)
    library.train_from_iterator(_lines()[:300], trainer)
    definition = _saved(library)
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] not in pieces]
    return definition


def _unigram() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    library = Tokenizer(models.Unigram())
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    library.train_from_iterator(_lines(), trainer)
    return library


def unigram() -> dict[str, Any]:
    """The shape of T5 and XLM-R, with the post-processor of the latter."""
    from tokenizers import processors

    library = _unigram()
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return _saved(library)


def unigram_without_marks() -> dict[str, Any]:
    """The special entries are in the vocabulary, and nothing says that they are special."""
    definition = _saved(_unigram(), marked=False)
    definition["added_tokens"] = []
    return definition


def word_piece() -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    library = Tokenizer(models.WordPiece(unk_token="<unk>"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    library.train_from_iterator(_lines(), trainer)
    return _saved(library)


def word_level() -> dict[str, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.WordLevel(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    library.train_from_iterator(_lines(), trainer)
    return _saved(library)


FAMILIES: dict[str, Callable[[], dict[str, Any]]] = {
    family.__name__: family
    for family in (
        byte_level,
        byte_level_ignoring_merges,
        byte_level_with_merges_of_special,
        byte_fallback,
        unigram,
        unigram_without_marks,
        word_piece,
        word_level,
    )
}


@cache
def _definition_json(family: str) -> str:
    return json.dumps(FAMILIES[family]())


def definition_of(family: str) -> dict[str, Any]:
    """The content of the family's `tokenizer.json`, a new one at each call."""
    return cast("dict[str, Any]", json.loads(_definition_json(family)))


@cache
def sentencepiece_model(kind: str, *, end_of_text: bool = True) -> bytes:
    """A small model, `unigram` or `bpe` with byte fallback; without `end_of_text` its eos is a user-defined symbol."""
    import sentencepiece

    options: dict[str, Any] = {"vocab_size": 400} if kind == "unigram" else {"vocab_size": 700, "byte_fallback": True}
    if not end_of_text:
        options["eos_id"] = -1
    target = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_lines()),
        model_writer=target,
        model_type=kind,
        control_symbols=[CONTROL],
        user_defined_symbols=[USER_DEFINED, *([] if end_of_text else ["</s>"])],
        minloglevel=2,
        **options,
    )
    return target.getvalue()


def hard_texts() -> list[str]:
    """Special tokens spelled out, alone, in words and between spaces, and texts that are hard for a tokenizer."""
    names = [*SPECIAL, CONTROL, "<0x0A>", "<|endoftext|>", "[UNK]", "##</s>", "▁</s>", "＜/s＞", "<∕s>"]
    spelled = [
        frame.format(name)
        for name in names
        for frame in ("{}", "a{}b", " {} ", "\n{}\n", "{0}{0}", "{}a", "\U0010fffe{}", "\ufffe{}", "\x00{}", "<{}>")
    ]
    others = ["", " ", "\x00", "a\u0301", "\ufdd0", "\U0010ffff", "e\u200bx", "日本語", "🤖" * 3, "x" * 3000, "\r\n\t"]
    return [*spelled, *others, " ".join(names), "".join(names)]
