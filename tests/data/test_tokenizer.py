"""Tokenizers: the ids are those of the library with nothing added, however the tokenizer was named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_data.conversion.encode_worker import pack
from tst_data.errors import InvalidInputError, NotFoundError, UnavailableError
from tst_data.tokenizer import training as tokenizer_training
from tst_data.tokenizer.base import Tokenizer
from tst_data.tokenizer.byte_tokenizer import ByteTokenizer
from tst_data.tokenizer.json_tokenizer import JSONTokenizer
from tst_data.tokenizer.loading import load_saved_tokenizer, load_tokenizer, split_training_size
from tst_data.tokenizer.training import sampled, train_tokenizer

SENTENCES = [
    f"The {a} {b}s over the {c}.\n" for a in ["quick", "slow"] for b in ["jump", "run"] for c in ["dog", "cat"]
]
LITERAL = "before<|endoftext|>after"


@pytest.fixture(scope="module")
def trained() -> JSONTokenizer:
    return train_tokenizer([sentence.encode() for sentence in SENTENCES], 280)


def word_level(words: list[str], special: list[str] | None = None) -> dict[str, Any]:
    """The content of a small tokenizer.json that splits at spaces."""
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers import models, pre_tokenizers

    library = LibraryTokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0])
    )
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(special or [])
    return cast("dict[str, Any]", json.loads(library.to_str()))


def save(folder: Path, definition: dict[str, Any], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@given(st.text())
def test_bytes_are_their_own_ids(text: str) -> None:
    tokenizer = load_tokenizer("bytes")
    (ids,) = tokenizer.encode_batch([text])
    assert bytes(ids.tolist()) == text.encode()
    assert tokenizer.decode([*ids, tokenizer.end_of_text_id]) == f"{text}<|endoftext|>"
    assert (tokenizer.vocabulary_size, tokenizer.end_of_text_id) == (257, 256)


@given(st.lists(st.text(), max_size=5))
def test_any_text_comes_back_from_a_trained_tokenizer(trained: JSONTokenizer, texts: list[str]) -> None:
    for text, ids in zip(texts, trained.encode_batch(texts), strict=True):
        assert trained.decode(ids) == text
        assert trained.end_of_text_id not in ids


def test_training_gives_the_same_tokenizer_again(trained: JSONTokenizer) -> None:
    again = train_tokenizer([sentence.encode() for sentence in SENTENCES], 280)
    assert again.hash == trained.hash
    assert trained.vocabulary_size == 280
    assert trained.encode_batch([SENTENCES[0]])[0].size < len(SENTENCES[0]) / 2
    assert train_tokenizer([b"other text"], 300).hash != trained.hash


@pytest.mark.parametrize("kind", ["bytes", "trained", "words"])
def test_a_saved_tokenizer_is_the_same_one_for_us_and_for_transformers(
    tmp_path: Path, trained: JSONTokenizer, kind: str
) -> None:
    transformers = pytest.importorskip("transformers")
    words = JSONTokenizer(word_level(["<unk>", "a", "b", "</s>"]), name="words", kind="huggingface", end_of_text=None)
    tokenizer: Tokenizer = {"bytes": ByteTokenizer(), "trained": trained, "words": words}[kind]
    tokenizer.save(tmp_path)
    loaded = load_saved_tokenizer(tmp_path)
    for attribute in ("name", "kind", "hash", "vocabulary_size", "end_of_text_id"):
        assert getattr(loaded, attribute) == getattr(tokenizer, attribute)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "a b The quick ž"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode_batch([text])[0].tolist()
    assert theirs.eos_token_id == tokenizer.end_of_text_id
    assert load_tokenizer(str(tmp_path)).hash == tokenizer.hash or kind == "bytes"


def test_hashes_do_not_change() -> None:
    """They are part of the fingerprints of datasets. The values were recorded with release 0.1.0."""
    bpe = {"type": "BPE", "vocab": {"h": 0, "e": 1, "he": 2, "</s>": 3}, "merges": ["h e"]}
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "ž": 1, "</s>": 2}, "unk_token": "<unk>"}
    of_bpe = "990f9d3e71228c86a98762ee4a7056d269841f6d264255b736de06d501e8581c"
    cases: list[tuple[dict[str, Any], str | None, str]] = [
        ({"added_tokens": [], "model": {**bpe, "dropout": None}}, None, of_bpe),
        ({"added_tokens": [], "model": {**bpe, "dropout": 0.1}}, None, of_bpe),  # left out
        ({"model": words}, "ž", "90962e477ba3fa1f27096fb41fbbf1850e02a7eaf6ab379570b3af60d952618c"),
    ]
    for definition, end_of_text, expected in cases:
        assert JSONTokenizer(definition, name="a", kind="huggingface", end_of_text=end_of_text).hash == expected
    assert ByteTokenizer().hash == "219307a0ad47f647f9faceee27162e2d31be298ac70abfe000d222c3fceccd4e"


def test_the_end_of_text_token_spelled_out_in_text_stays_text(tmp_path: Path, trained: JSONTokenizer) -> None:
    (ids,) = trained.encode_batch([LITERAL])
    assert trained.end_of_text_id not in ids
    assert trained.decode(ids) == LITERAL
    definition = json.loads(json.dumps(trained.definition()))
    definition["added_tokens"][0]["special"] = False
    unmarked = load_tokenizer(str(save(tmp_path / "unmarked", definition)))
    assert unmarked.end_of_text_id not in unmarked.encode_batch([LITERAL])[0]


def test_truncation_padding_and_templates_of_the_file_are_left_out(tmp_path: Path) -> None:
    definition = word_level(["<unk>", "a", "b"], ["</s>", "<s>"])
    definition["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    definition["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}},
    }
    tokenizer = load_tokenizer(str(save(tmp_path / "t", definition)))
    assert tokenizer.encode_batch(["a b a b", "", "b"])[0].tolist() == [1, 2, 1, 2]
    assert tokenizer.vocabulary_size == 5
    packed = pack(tokenizer, ["a b a b", "", "b"], np.dtype(np.uint16))
    assert packed.lengths.tolist() == [5, 1, 2]
    assert packed.tokens.tolist() == [1, 2, 1, 2, 3, 3, 2, 3]


def test_the_end_of_text_token_is_found_in_the_right_order(tmp_path: Path) -> None:
    definition = word_level(["<unk>", "a", "</s>", "<stop>", "<halt>"])
    plain = save(tmp_path / "plain", definition)
    configured = save(tmp_path / "configured", definition, eos_token={"content": "<stop>"})
    assert load_tokenizer(str(plain)).end_of_text_id == 2
    assert load_tokenizer(str(configured)).end_of_text_id == 3
    assert load_tokenizer(str(configured / "tokenizer.json")).end_of_text_id == 3
    assert load_tokenizer(str(configured), "<halt>").end_of_text_id == 4
    assert load_tokenizer(str(plain)).hash != load_tokenizer(str(configured)).hash


def test_tokenizers_that_cannot_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = save(tmp_path / "none", word_level(["<unk>", "a"]))
    bad = save(tmp_path / "bad", {"model": {"type": "Nonsense"}})
    (tmp_path / "text.json").write_text("not json")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "empty").mkdir()
    cases: list[tuple[str, str | None, type[Exception], str]] = [
        (str(none), None, InvalidInputError, r"no end-of-text token found .* name it with --end-of-text"),
        (str(none), "</s>", InvalidInputError, r"'</s>' is not in its vocabulary"),
        ("bytes", "</s>", InvalidInputError, r"leave --end-of-text out"),
        (str(bad), None, InvalidInputError, r"is not a valid tokenizer\.json"),
        (str(tmp_path / "text.json"), None, InvalidInputError, r"is not JSON"),
        (str(tmp_path / "other.json"), None, InvalidInputError, r"has no 'model'"),
        (str(tmp_path / "empty"), None, InvalidInputError, r"holds no tokenizer\.json"),
        (str(tmp_path / "nowhere"), None, NotFoundError, r"no such file or folder"),
    ]
    for specification, end_of_text, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            load_tokenizer(specification, end_of_text)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("tst_data.tokenizer.loading.hub_is_reachable", lambda: False)
    with pytest.raises(
        UnavailableError,
        match=r"no-one/nothing: no such file or folder, and it cannot be fetched from the Hugging Face Hub",
    ):
        load_tokenizer("no-one/nothing")


def test_training_sizes_are_checked() -> None:
    assert split_training_size("train:4096") == 4096
    assert split_training_size("bytes") is None
    for wrong in ("train:", "train:256", "train:x", "train:-5", "train:1e6", "train:10000000"):
        with pytest.raises(InvalidInputError, match=r"expected train:SIZE"):
            split_training_size(wrong)


def test_large_sources_are_sampled_by_the_hash_of_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_training, "SAMPLE_BYTES", 10_000)
    texts = [f"document {number:05}".encode() for number in range(10_000)]
    chosen = list(sampled(texts, 140_000))
    assert 7_000 < sum(map(len, chosen)) < 13_000
    assert sorted(sampled(texts[::-1], 140_000)) == sorted(chosen)
    assert list(sampled(texts[:500], 10_000)) == texts[:500]
    assert sum(map(len, sampled(texts, 1))) <= 40_020


def test_gpt2_ids_are_the_librarys(shared_data: Path) -> None:
    from tokenizers import Tokenizer as LibraryTokenizer

    file = shared_data / "gpt2" / "tokenizer.json"
    tokenizer = load_tokenizer(str(file))
    library = LibraryTokenizer.from_file(str(file))
    text = (shared_data / "wikitext-2" / "valid.txt").read_text()[:200_000]
    assert tokenizer.encode_batch([text])[0].tolist() == library.encode(text, add_special_tokens=False).ids
    assert (tokenizer.vocabulary_size, tokenizer.end_of_text_id) == (50257, 50256)
