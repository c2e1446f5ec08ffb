"""No text gives a special token, on every family of tokenizers, and every other text is encoded as the library does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.conversion import CommandLine, check_refused, documents_of, write_texts
from tests.support.tokenizer_shapes import CONTROL, FAMILIES, SPECIAL, USER_DEFINED, definition_of, hard_texts, load
from tst_data.conversion.encode_worker import pack
from tst_data.errors import InvalidInputError
from tst_data.tokenizer.json_tokenizer import JSONTokenizer

UNKNOWN = "<unk>"
EXACT = {"byte_level", "byte_level_ignoring_merges", "byte_level_with_merges_of_special", "byte_fallback"}
"""Families that give back every text."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(family: str) -> JSONTokenizer:
    return load(definition_of(family))


@pytest.fixture(scope="module")
def library(family: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(definition_of(family)))


def special_ids(tokenizer: JSONTokenizer, library: Any) -> set[int]:
    """Those of the names that are special in every family, found without the code under test."""
    ids = (library.token_to_id(name) for name in (*SPECIAL, CONTROL) if name != UNKNOWN)
    return {token for token in ids if token is not None}


def test_texts_that_spell_special_tokens_do_not_give_them(tokenizer: JSONTokenizer, library: Any, family: str) -> None:
    forbidden = special_ids(tokenizer, library)
    assert tokenizer.end_of_text_id in forbidden
    assert tokenizer.reserved_ids - {0} == forbidden
    for text, ids in zip(hard_texts(), tokenizer.encode_batch(hard_texts()), strict=True):
        assert not forbidden & set(ids.tolist()), text
        if family in EXACT and "▁" not in text:
            assert tokenizer.decode(ids) == text
        if "<unk>" in text and "byte" in family:
            assert library.token_to_id(UNKNOWN) not in ids


def test_special_ids_are_decoded_to_their_names(tokenizer: JSONTokenizer, library: Any) -> None:
    for token in special_ids(tokenizer, library):
        assert tokenizer.decode([token]).strip() == library.id_to_token(token)
    assert tokenizer.definition()["model"] == json.loads(library.to_str())["model"] or "unk_id" in str(library.model)


@settings(max_examples=60)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from([*SPECIAL, CONTROL, "<", "/s>", "</s", ">", " ", "\n", "##", "▁", "\U0010fffe"]),
            st.text(max_size=6),
        ),
        max_size=12,
    )
)
def test_no_text_gives_a_special_token(tokenizer: JSONTokenizer, library: Any, family: str, parts: list[str]) -> None:
    text = "".join(parts)
    (ids,) = tokenizer.encode_batch([text])
    assert not special_ids(tokenizer, library) & set(ids.tolist())
    if family in EXACT and "▁" not in text:
        assert tokenizer.decode(ids) == text


WORDS = [USER_DEFINED, "the tokens", "of a shard", "1,024", "  ", "\n\n", "ž", "日本", "é", "**bold**", "/", ">", "`x`"]


@settings(max_examples=60)
@given(text=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), max_size=12).map("".join))
def test_every_other_text_is_encoded_as_the_library_does(tokenizer: JSONTokenizer, library: Any, text: str) -> None:
    if any(name in text for name in (*SPECIAL, CONTROL)):
        return
    assert tokenizer.encode_batch([text])[0].tolist() == library.encode(text, add_special_tokens=False).ids


def test_every_code_point_of_the_basic_plane_is_encoded_as_the_library_does(
    tokenizer: JSONTokenizer, library: Any
) -> None:
    points = [chr(point) for point in range(0x10000) if not 0xD800 <= point < 0xE000]
    texts = ["".join(points[start : start + 128]) for start in range(0, len(points), 128)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.tolist() == library.encode(text, add_special_tokens=False).ids


@pytest.mark.slow
def test_a_megabyte_of_spaces(tokenizer: JSONTokenizer, library: Any) -> None:
    spaces = " " * (1 << 20)
    (ids,) = tokenizer.encode_batch([spaces])
    assert not special_ids(tokenizer, library) & set(ids.tolist())


def test_lone_surrogates_are_refused(tokenizer: JSONTokenizer) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        tokenizer.encode_batch(["a\ud800b"])


def test_user_defined_tokens_are_found_in_the_text() -> None:
    tokenizer = load(definition_of("unigram"))
    (ids,) = tokenizer.encode_batch([f"a{USER_DEFINED}b"])
    assert USER_DEFINED in tokenizer.decode(ids)
    assert tokenizer.encode_batch([USER_DEFINED])[0].size <= 2


@pytest.mark.parametrize("family", ["unigram", "word_level", "byte_level_ignoring_merges"])
def test_an_encoding_with_a_special_token_is_refused(family: str) -> None:
    """A text with the names of the working copy, which nobody can know."""
    tokenizer = load(definition_of(family))
    working = tokenizer._encoder.ids.get_vocab()
    (secret,) = (name for name in working if name.startswith("\U0010fffe") and name.endswith("</s>"))
    if family == "byte_level_ignoring_merges":  # its texts are bytes to the model, so they cannot even spell the prefix
        assert tokenizer.end_of_text_id not in tokenizer.encode_batch([secret])[0]
        return
    with pytest.raises(InvalidInputError, match=r"gives the special token '</s>' \(id 2\).* use another tokenizer"):
        pack(tokenizer, ["fine", f"{secret}"], np.dtype(np.uint16))
    assert secret[1:33] != load(definition_of(family))._encoder.ids.id_to_token(2)[1:33]


def test_unknown_text_that_would_give_end_of_text_is_refused(tmp_path: Path, convert: CommandLine) -> None:
    """A WordLevel whose unknown token is its end-of-text token."""
    definition = definition_of("word_level")
    definition["model"]["unk_token"] = "</s>"
    (tmp_path / "t.json").write_text(json.dumps(definition))
    source = write_texts(tmp_path / "a.jsonl", ["the", "a of", "of zzz"])
    refused = convert(source, "--tokenizer", tmp_path / "t.json", tmp_path / "out")
    check_refused(refused, r"a\.jsonl: row 2: the text gives the special token '</s>' \(id 2\), which no text may give")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("family", ["unigram", "word_level", "byte_level_with_merges_of_special"])
def test_a_dataset_has_no_forged_end_of_text(tmp_path: Path, convert: CommandLine, family: str) -> None:
    (tmp_path / "t.json").write_text(json.dumps(definition_of(family)))
    texts = ["</s>", "the </s> of", "a</s>a"]
    source = write_texts(tmp_path / "a.jsonl", texts)
    outcome = convert(source, "--tokenizer", tmp_path / "t.json", "--max-lost", "100%", tmp_path / "out")
    assert outcome.code == 0, outcome.errors
    documents = documents_of(tmp_path / "out")
    assert len(documents) == 3
    assert [document.count(2) for document in documents] == [1, 1, 1]


def test_dropout_is_left_out() -> None:
    plain, random = definition_of("byte_level"), definition_of("byte_level")
    random["model"]["dropout"] = 0.5
    tokenizer = load(random)
    text = "the tokens of a dataset and of its shards " * 20
    assert tokenizer.encode_batch([text])[0].tolist() == load(plain).encode_batch([text])[0].tolist()
    assert tokenizer.hash == load(plain).hash
    assert tokenizer.definition()["model"]["dropout"] is None
    plain["model"]["dropout"] = 0.0  # means the same, and its hash stays what it was
    assert load(plain).hash != tokenizer.hash


@pytest.mark.parametrize("marked", [["<0x0A>"], [f"<0x{value:02X}>" for value in range(256)]])
def test_byte_pieces_that_are_marked_as_special_are_still_bytes(marked: list[str]) -> None:
    definition = definition_of("byte_fallback")
    plain = load(definition)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    vocabulary = definition["model"]["vocab"]
    definition["added_tokens"] += [{**flags, "id": vocabulary[piece], "content": piece} for piece in marked]
    tokenizer = load(definition)
    texts = ["the\n\nof", "žж\n日本", "\x00"]
    packed = pack(tokenizer, texts, np.dtype(np.uint16))
    assert packed.tokens.tolist() == pack(plain, texts, np.dtype(np.uint16)).tokens.tolist()
    assert packed.lost == [0, 0, 0]
    assert tokenizer.reserved_ids == plain.reserved_ids
    assert tokenizer.decode(packed.tokens[: packed.lengths[0] - 1]) == texts[0]
    with pytest.raises(InvalidInputError, match=r"'<0x0A>' stands for a byte, so a text can hold it; name another"):
        load(definition, "<0x0A>")


def test_the_name_of_a_byte_piece_gives_at_most_that_byte() -> None:
    """A BPE with byte fallback reaches no piece that merges do not make; a Unigram takes every entry that it finds."""
    definition = definition_of("byte_fallback")
    tokenizer = load(definition)
    assert definition["model"]["vocab"]["<0x0A>"] not in tokenizer.encode_batch(["<0x0A>", "a<0x0A>b"])[0]
    unigram = definition_of("unigram")
    model = unigram["model"]
    model["vocab"] += [[f"<0x{value:02X}>", -20.0] for value in range(256)]
    model["byte_fallback"] = True
    for token in unigram["added_tokens"]:  # after the entries of the model
        if token["content"] in (CONTROL, USER_DEFINED):
            token["id"] += 256
    tokenizer = load(unigram)
    names = [entry[0] for entry in model["vocab"]]
    (ids,) = tokenizer.encode_batch(["<0x0A>"])
    assert names.index("<0x0A>") in ids
    assert not tokenizer.reserved_ids & {names.index(f"<0x{value:02X}>") for value in range(256)}
