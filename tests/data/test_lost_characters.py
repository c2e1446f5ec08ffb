"""Characters that a tokenizer cannot represent are counted, reported, and refused where they are too many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.conversion import CommandLine, check_refused, documents_of, hashes_of, write_texts
from tests.support.tokenizer_shapes import FAMILIES, definition_of, load
from tst_data.commands.convert import parse_lost_share
from tst_data.conversion import lost_characters
from tst_data.conversion.lost_characters import CharacterCounts, CountFile, refuse_lost_characters
from tst_data.conversion.request import Conversion
from tst_data.dataset.manifest import load_manifest
from tst_data.dataset.writer import DatasetWriter
from tst_data.errors import InvalidInputError
from tst_data.tokenizer.byte_tokenizer import ByteTokenizer, byte_level_characters


def bpe(pieces: str, **model: Any) -> dict[str, Any]:
    """A BPE of these pieces, `he` and `</s>`, without an unknown token and without byte fallback."""
    entries = dict.fromkeys([*pieces.split(), "he", "</s>"])
    vocabulary = {piece: number for number, piece in enumerate(entries)}
    return {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": [["h", "e"]], **model}}


def library_of(definition: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(definition))


def test_a_bpe_that_skips_what_it_does_not_know_is_found_out() -> None:
    texts = ["hello world", "he", "", "hhe", "žhže", "e h"]
    definition = bpe("h e")
    encoded, lost = load(definition).encode_and_count(texts)
    library = library_of(definition)
    assert [ids.tolist() for ids in encoded] == [library.encode(text).ids for text in texts]
    assert lost == [9, 0, 0, 0, 2, 1]


def test_added_tokens_keep_their_ids_where_skipped_characters_are_counted() -> None:
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    definition = bpe("h e")
    definition["added_tokens"] = [
        {**added, "id": 4, "content": "<user>", "special": False},
        {**added, "id": 5, "content": "<control>", "special": True},
    ]
    encoded, lost = load(definition).encode_and_count(["<user>hxe", "<user>he", "<control>"])
    assert [ids.tolist() for ids in encoded] == [[4, 2], [4, 2], []]
    assert lost == [1, 0, 9]


@pytest.mark.parametrize("trained", [["</s>"], ["</s>", "é"]])
def test_an_added_token_is_not_found_by_counting(trained: list[str]) -> None:
    """The normalizer makes it of a text only after added tokens were looked for; the library skips it then."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=trained, show_progress=False)
    library.train_from_iterator(["hello world this is a text of small letters"] * 10, trainer)
    library.add_tokens([AddedToken("é", normalized=False), AddedToken("☃", single_word=True)])
    texts = ["É", "helloÉ", "a☃b", "é ☃", "hello world", "日é", "hello</s>", ""]
    tokenizer = load(json.loads(library.to_str()))
    library.encode_special_tokens = True
    for chosen in (texts, texts[:3], texts[4:], [texts[5]], [texts[4]], texts):
        encoded, lost = tokenizer.encode_and_count(chosen)
        assert [ids.tolist() for ids in encoded] == [library.encode(text).ids for text in chosen]
        skipped = {"É": 1, "helloÉ": 1, "a☃b": 2, "日é": 1, "hello</s>": 3} | (
            {"É": 0, "helloÉ": 0} if "é" in trained else {}
        )
        assert lost == [skipped.get(text, 0) for text in chosen]


def test_a_character_of_several_bytes_is_counted_once() -> None:
    definition = bpe(" ".join(byte_level_characters()[:0xC0]))
    definition["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    assert load(definition).encode_and_count(["he", "žluť", "🤖 he 🤖🤖"])[1] == [0, 2, 3]


def test_what_a_definition_changes_on_purpose_is_not_lost() -> None:
    texts = ["The TOKENS", "tök\u0301éns", "the\x00 of\u200b", "  a\n\n\tb "]
    assert load(definition_of("word_piece")).encode_and_count(texts)[1] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("family", "lost"),
    [("word_piece", [0, 5, 3, 0]), ("word_level", [0, 5, 3, 6]), ("unigram", [0, 2, 3, 0]), ("byte_fallback", [0] * 4)],
)
def test_characters_in_an_unknown_token_are_lost(family: str, lost: list[int]) -> None:
    """All of a word where the model knows words; for a Unigram the characters that it does not know."""
    texts = ["the of", "the жtheж of", "日本語", "the tokeno"]
    tokenizer = load(definition_of(family))
    for chosen in (slice(4), slice(1, 3), slice(1, 4), slice(1), slice(4)):  # it remembers how many texts had unknowns
        encoded, counted = tokenizer.encode_and_count(texts[chosen])
        assert counted == lost[chosen]
        for text, ids in zip(texts[chosen], encoded, strict=True):
            assert ids.tolist() == library_of(definition_of(family)).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", ["byte_level", "byte_level_ignoring_merges", "byte_fallback"])
def test_a_model_that_knows_every_byte_is_not_checked_document_by_document(family: str) -> None:
    tokenizer = load(definition_of(family))
    assert tokenizer._encoder.unknown_id is None
    definition = definition_of(family)
    rare = "<0xF4>" if family == "byte_fallback" else byte_level_characters()[0xF4]
    number = definition["model"]["vocab"].pop(rare)
    definition["model"]["vocab"]["another piece"] = number
    checked = load(definition)
    assert checked._encoder.unknown_id is not None
    assert checked.encode_and_count(["the", "\U0010ffff"])[1] == [0, 1]
    assert tokenizer.encode_and_count(["the", "\U0010ffff"])[1] == [0, 0]


def test_an_end_of_text_token_that_texts_need_is_noticed() -> None:
    """Newlines cannot be tokens of the text and end-of-text at once."""
    definition = definition_of("byte_level")
    tokenizer = load(definition, byte_level_characters()[ord("\n")])
    encoded, lost = tokenizer.encode_and_count(["one\ntwo\n", "one"])
    assert lost == [2, 0]
    assert tokenizer.end_of_text_id not in encoded[0]
    assert ByteTokenizer().encode_and_count(["one\ntwo\n"])[1] == [0]


@pytest.fixture
def unigram(tmp_path: Path) -> Path:
    (tmp_path / "t.json").write_text(json.dumps(definition_of("unigram")))
    return tmp_path / "t.json"


def test_too_many_lost_characters_are_refused(tmp_path: Path, convert: CommandLine, unigram: Path) -> None:
    source = write_texts(tmp_path / "a.jsonl", ["the tokens of a shard" * 40, "ab жя", "of ж"])  # 3 of 849
    before = sorted(tmp_path.iterdir())
    refused = convert(source, "--tokenizer", unigram, tmp_path / "out")
    check_refused(
        refused,
        r"a\.jsonl: row 1: the tokenizer cannot represent 3 of the 849 characters so far \(0\.353%\), expected at most "
        r"0\.1%; use one that knows them, such as bytes or train:4096, or give the command again with a larger "
        r"--max-lost$",
    )
    assert sorted(tmp_path.iterdir()) == before
    made = convert(source, "--tokenizer", unigram, "--max-lost", "0.5%", tmp_path / "out")
    assert made.code == 0
    assert "out: the tokenizer cannot represent 3 of 849 characters (0.35%)" in made.errors
    assert load_manifest(tmp_path / "out").made["characters"] == 849
    assert load_manifest(tmp_path / "out").made["lost_characters"] == 3
    again = convert(source, "--tokenizer", unigram, "--max-lost", "1", "--json", tmp_path / "out")
    assert (again.json["already_done"], again.json["characters"], again.json["lost_characters"]) == (True, 849, 3)
    check_refused(
        convert(source, "--tokenizer", unigram, tmp_path / "out"), r"out: the tokenizer cannot represent 3 of the 849"
    )


def test_a_conversion_that_loses_nothing_says_so(tmp_path: Path, convert: CommandLine, corpus: Path) -> None:
    made = convert(corpus, "--max-lost", "0", "--json", tmp_path / "out")
    assert made.code == 0
    assert made.json["lost_characters"] == 0
    texts = [bytes(document[:-1]).decode() for document in documents_of(tmp_path / "out")]
    assert made.json["characters"] == sum(map(len, texts))
    assert made.json["encoder"] is None


def test_a_long_conversion_is_refused_early_and_can_be_resumed(
    tmp_path: Path, convert: CommandLine, unigram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_characters, "CHECKED_FROM_CHARACTERS", 60_000)
    monkeypatch.setattr("tst_data.conversion.document_batches.BATCH_BYTES", 10_000)
    texts = ["the tokens of a shard " * 40 + ("ж" * 50 if number >= 100 else "") for number in range(200)]
    source = write_texts(tmp_path / "a.jsonl", texts)
    options = (source, "--tokenizer", unigram, "--shard-tokens", 4096)
    assert convert(*options, "--max-lost", "5%", tmp_path / "whole").code == 0
    refused = convert(*options, tmp_path / "out")
    check_refused(refused, r"a\.jsonl: row \d+: .* or give the command again, which resumes, with a larger --max-lost$")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.converting").exists()
    assert convert(*options, "--max-lost", "5%", tmp_path / "out").code == 0
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "whole")


@pytest.mark.parametrize(("commits", "shard_tokens"), [(1, 4096), (5, 4096), (2, 12_288)])
def test_the_counts_of_an_interrupted_conversion_are_those_of_all_documents(
    tmp_path: Path,
    convert: CommandLine,
    unigram: Path,
    monkeypatch: pytest.MonkeyPatch,
    commits: int,
    shard_tokens: int,
) -> None:
    """It stops at a commit, the last time between the last two of a dataset; every file has the same bytes."""
    texts = ["tokens of a shard " * (number % 50) + "ж" * (number % 3) for number in range(220)]
    source = write_texts(tmp_path / "a.jsonl", texts)
    options = (source, "--tokenizer", unigram, "--shard-tokens", shard_tokens, "--validation", "10%", "--max-lost", 1)
    assert convert(*options, tmp_path / "whole").code == 0
    commit = DatasetWriter._commit
    committed: list[int] = []

    def commit_some(self: DatasetWriter, length: int) -> None:
        if len(committed) == commits:
            raise KeyboardInterrupt
        committed.append(length)
        commit(self, length)

    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "_commit", commit_some)
        assert convert(*options, tmp_path / "out").code == 130
    assert convert(*options, tmp_path / "out").code == 0
    for name in ("out", "out-validation"):
        assert hashes_of(tmp_path / name) == hashes_of(tmp_path / name.replace("out", "whole"))
    made = load_manifest(tmp_path / "out").made, load_manifest(tmp_path / "out-validation").made
    assert sum(one["characters"] for one in made) == sum(map(len, texts))
    assert sum(one["lost_characters"] for one in made) == sum(text.count("ж") for text in texts)
    assert sum(map(len, (documents_of(tmp_path / "out"), documents_of(tmp_path / "out-validation")))) == len(texts)


def test_counts_continue_after_the_documents_that_are_written(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    first = CountFile(path, 0)
    for number in range(5):
        first.add(10 * number, number)
    first.sync()
    first.close()
    path.write_bytes(path.read_bytes() + b"torn")
    second = CountFile(path, 3)
    assert (second.counts.characters, second.counts.lost) == (30, 3)
    second.add(7, 1)
    second.close()
    third = CountFile(path, 4)
    assert (third.counts.characters, third.counts.lost) == (37, 4)
    third.close()
    with pytest.raises(InvalidInputError, match="holds fewer documents than were converted; convert with --restart"):
        CountFile(path, 5)


def test_a_share_of_one_refuses_nothing() -> None:
    everything = Conversion(sources=("a",), tokenizer="m", max_lost=1.0)
    counts = [CharacterCounts(10, 150)]
    refuse_lost_characters(everything, counts, example="a: row 1", at_end=True, can_resume=False)
    with pytest.raises(InvalidInputError, match=r"expected at most 99%"):
        refuse_lost_characters(
            everything.model_copy(update={"max_lost": 0.99}), counts, example="a", at_end=True, can_resume=False
        )


def test_the_largest_share_of_lost_characters_is_read() -> None:
    assert parse_lost_share("0.1%") == pytest.approx(0.001)
    assert (parse_lost_share("100%"), parse_lost_share("0")) == (1.0, 0.0)
    for wrong in ("", "2", "-1%", "nan", "some"):
        with pytest.raises(InvalidInputError, match=r"--max-lost .*: expected a share of characters; give 0\.1%"):
            parse_lost_share(wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_that_a_tokenizer_knows_loses_nothing(family: str) -> None:
    texts = ["the", "of a", ""]
    assert load(definition_of(family)).encode_and_count(texts)[1] == [0, 0, 0]
