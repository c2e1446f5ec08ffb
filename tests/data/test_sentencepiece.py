"""Models of sentencepiece are read with sentencepiece itself, and their bytes are kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.conversion import CommandLine, check_refused, documents_of, write_texts
from tests.support.tokenizer_shapes import CONTROL, SPECIAL, USER_DEFINED, hard_texts, sentencepiece_model
from tst_data.conversion.encode_worker import pack
from tst_data.dataset.reader import open_dataset
from tst_data.errors import InvalidInputError, UnavailableError
from tst_data.tokenizer.loading import load_saved_tokenizer, load_tokenizer
from tst_data.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(kind: str) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(sentencepiece_model(kind), name="test", end_of_text=None)


@pytest.fixture(scope="module")
def library(kind: str) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=sentencepiece_model(kind))


def test_texts_that_spell_control_symbols_do_not_give_them(tokenizer: SentencePieceTokenizer, library: Any) -> None:
    control = {library.piece_to_id(name) for name in ("<s>", "</s>", CONTROL)}
    assert tokenizer.reserved_ids == control
    assert (tokenizer.end_of_text, tokenizer.end_of_text_id) == ("</s>", library.eos_id())
    for text, ids in zip(hard_texts(), tokenizer.encode_batch(hard_texts()), strict=True):
        assert ids.tolist() == library.encode(text)
        assert not control & set(ids.tolist()), text
    assert library.piece_to_id(USER_DEFINED) in tokenizer.encode_batch([f"a{USER_DEFINED}b"])[0]
    packed = pack(tokenizer, ["a", ""], np.dtype(np.uint16))
    assert packed.tokens[-1] == packed.tokens[-2] == library.eos_id()


@settings(max_examples=60)
@given(parts=st.lists(st.one_of(st.sampled_from([*SPECIAL, CONTROL, " ", "\n", "▁"]), st.text(max_size=6)), max_size=9))
def test_ids_are_those_of_the_library(
    tokenizer: SentencePieceTokenizer, library: Any, kind: str, parts: list[str]
) -> None:
    text = "".join(parts)
    (ids,), (lost,) = tokenizer.encode_and_count([text])
    assert ids.tolist() == library.encode(text)
    assert not tokenizer.reserved_ids & set(ids.tolist())
    assert tokenizer.decode(ids) == library.decode(ids.tolist())
    if kind == "bpe":
        assert lost == 0
        assert tokenizer.decode(ids) == library.normalize(text).replace("▁", " ").removeprefix(" ")


def test_special_ids_are_decoded_to_their_names(tokenizer: SentencePieceTokenizer) -> None:
    (ids,) = tokenizer.encode_batch(["the tokens"])
    closed = [*ids, tokenizer.end_of_text_id]
    assert tokenizer.decode([*closed, *closed]) == "the tokens</s>the tokens</s>"


def test_unknown_characters_are_counted(tokenizer: SentencePieceTokenizer, kind: str) -> None:
    _, lost = tokenizer.encode_and_count(["the", "жя of ж", "the\n\nof \x00", "日"])
    assert lost == ([0, 3, 1, 1] if kind == "unigram" else [0, 0, 0, 0])


def test_lost_characters_are_those_of_the_text_before_it_is_normalized() -> None:
    """The normalizer makes several characters of one, and one of several."""
    tokenizer = SentencePieceTokenizer(sentencepiece_model("unigram"), name="test", end_of_text=None)
    lost = {
        "\ufdfa": 1,  # 18 characters
        "\ufdfa" * 10: 10,
        "a \ufdfa b": 1,
        "\u3300 x": 1,  # 4 characters
        "\xbd": 1,  # 1⁄2, of which only the stroke is unknown
        "\xbd☃": 2,
        "a\u0301☃": 3,  # one character
        "the \u3000☃☃ of  🤖": 3,
        "\u2460\u2461": 0,
        "": 0,
    }
    assert tokenizer.encode_and_count(list(lost))[1] == list(lost.values())


@settings(max_examples=60)
@given(texts=st.lists(st.text(max_size=20), max_size=4))
def test_never_more_characters_are_lost_than_there_are(texts: list[str], tokenizer: SentencePieceTokenizer) -> None:
    for text, lost in zip(texts, tokenizer.encode_and_count(texts)[1], strict=True):
        assert 0 <= lost <= len(text)


@pytest.mark.slow
def test_every_code_point_and_a_megabyte_of_spaces(tokenizer: SentencePieceTokenizer, library: Any) -> None:
    points = [chr(point) for point in range(0x10000) if not 0xD800 <= point < 0xE000]
    texts = ["".join(points[start : start + 512]) for start in range(0, len(points), 512)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.tolist() == library.encode(text)
        assert not tokenizer.reserved_ids & set(ids.tolist())
    assert tokenizer.encode_batch([" " * (1 << 20)])[0].size == 0


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("wanted", ["</s>", "the"])
def test_an_end_of_text_token_that_is_no_control_symbol_is_made_one(kind: str, wanted: str) -> None:
    model = sentencepiece_model(kind, end_of_text=False)
    with pytest.raises(InvalidInputError, match=r"no end-of-text token; name one of its pieces with --end-of-text"):
        SentencePieceTokenizer(model, name="test", end_of_text=None)
    wanted = wanted if wanted == "</s>" else "▁the"
    tokenizer = SentencePieceTokenizer(model, name="test", end_of_text=wanted)
    texts = ["</s>", "a</s>b", " the the", "the tokens </s>"]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.end_of_text_id not in ids
        if kind == "bpe" and wanted == "▁the":
            assert tokenizer.decode(ids) == text.strip()
    from sentencepiece import SentencePieceProcessor

    plain = SentencePieceProcessor(model_proto=model)
    for text in ("a shard of tokens", f"x{USER_DEFINED}y", "žluť"):
        assert tokenizer.encode_batch([text])[0].tolist() == plain.encode(text)


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_a_dataset_keeps_the_bytes_of_the_model(
    tmp_path: Path, convert: CommandLine, kind: str, library: Any, name: str
) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / name).write_bytes(sentencepiece_model(kind))
    texts = ["a shard", "", "</s> of tokens"]
    source = write_texts(tmp_path / "a.jsonl", texts)
    given = folder if name == "tokenizer.model" else folder / name
    outcome = convert(source, "--tokenizer", given, "--max-lost", "100%", "--json", tmp_path / "out")
    assert outcome.code == 0, outcome.errors
    assert documents_of(tmp_path / "out") == [[*library.encode(text), library.eos_id()] for text in texts]
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == sentencepiece_model(kind)
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert outcome.json["encoder"].startswith("sentencepiece ")
    with open_dataset(tmp_path / "out") as dataset:
        assert {"tokenizer.model", "tokenizer_config.json"} < set(dataset.manifest.files)
        assert dataset.manifest.tokenizer.kind == "sentencepiece"
        loaded, original = dataset.tokenizer(), load_tokenizer(str(given))
        assert loaded.hash == original.hash == dataset.manifest.tokenizer.hash
        assert loaded.decode(dataset.read(0, 4)) == original.decode(dataset.read(0, 4))
        dataset.verify()
    assert load_saved_tokenizer(tmp_path / "out").hash == loaded.hash


def test_the_hash_is_of_the_model_and_the_end_of_text_token() -> None:
    model = sentencepiece_model("unigram")
    hashes = {
        SentencePieceTokenizer(content, name=name, end_of_text=end_of_text).hash
        for content, name, end_of_text in (
            (model, "a", None),
            (model, "b", "</s>"),
            (model, "a", "<s>"),
            (sentencepiece_model("bpe"), "a", None),
        )
    }
    assert len(hashes) == 3


def test_models_that_cannot_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, empty, other = (tmp_path / name for name in ("good", "bad", "empty", "other"))
    for folder, name, content in (
        (good, "tokenizer.model", sentencepiece_model("unigram")),
        (bad, "tokenizer.model", b"IQ== 0\nIg== 1\n"),  # the file of tiktoken has the same name
        (empty, "tokenizer.model", b""),
        (other, "spiece.model", b""),
    ):
        folder.mkdir()
        (folder / name).write_bytes(content)
    cases = [
        (bad, None, r"bad: is not a model of sentencepiece; give another one, or a tokenizer\.json"),
        (empty, None, r"empty: is (an empty model|not a model)"),
        (other, None, r"holds no tokenizer\.json, and spiece\.model has ids of its own; give spiece\.model itself"),
        (good, "<none>", r"end-of-text token '<none>' is not in its vocabulary; name another with --end-of-text"),
        (good, "<unk>", r"end-of-text token '<unk>' stands for unknown text or a byte"),
    ]
    for folder, end_of_text, message in cases:
        with pytest.raises(InvalidInputError, match=message) as caught:
            load_tokenizer(str(folder), end_of_text)
        assert "\n" not in str(caught.value)


def test_a_model_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("unigram"))

    def download(name: str, file: str, local_files_only: bool) -> str:
        if not (tmp_path / file).exists():
            raise LocalEntryNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr("tst_data.tokenizer.loading.hub_is_reachable", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_tokenizer("owner/name").kind == "sentencepiece"
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UnavailableError, match=r"owner/name: no such file or folder, and it cannot be fetched"):
        load_tokenizer("owner/name")


def test_the_missing_package_is_named(tmp_path: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("unigram"))
    source = write_texts(tmp_path / "a.jsonl", ["text"])
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    refused = convert(source, "--tokenizer", tmp_path / "tokenizer.model", tmp_path / "out")
    check_refused(refused, r"error: sentencepiece: is not installed; install it with: .*\[convert\]'$")
