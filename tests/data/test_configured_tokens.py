"""Special tokens that only the files beside a tokenizer name: no text gives them, and a dataset keeps their names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.conversion import CommandLine, check_refused, documents_of, write_texts
from tests.support.tokenizer_shapes import USER_DEFINED, definition_of, sentencepiece_model
from tst_data.dataset.reader import open_dataset
from tst_data.errors import InvalidInputError
from tst_data.tokenizer.loading import load_saved_tokenizer, load_tokenizer

WORDS = ["[UNK]", "</s>", "<|one|>", "<|two|>", "<|three|>", "<|four|>", "<|user|>", "hello"]
TEXT = "<|one|> <|two|> <|three|> <|four|> <|user|> </s> hello"
NAMES = ["<|one|>", "<|two|>", "<|three|>", "<|four|>"]


def decoder(content: str, *, special: bool) -> dict[str, Any]:
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {"content": content, "special": special, **flags}


CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "</s>",
    "bos_token": "<|one|>",
    "pad_token": {"content": "<|two|>", "__type": "AddedToken"},
    "additional_special_tokens": ["<|three|>", "<|of no vocabulary|>"],
    "added_tokens_decoder": {"5": decoder("<|four|>", special=True), "6": decoder("<|user|>", special=False)},
}


def folder_with(path: Path, **files: Any) -> Path:
    """A folder with a WordLevel that splits at spaces and knows WORDS, and with JSON files of these names."""
    path.mkdir()
    definition = {
        "added_tokens": [{"id": 6, **decoder("<|user|>", special=False)}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {word: id for id, word in enumerate(WORDS)}, "unk_token": "[UNK]"},
    }
    for name, content in {"tokenizer": definition, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_no_text_gives_what_the_configuration_calls_special(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(folder_with(tmp_path / "t", tokenizer_config=CONFIG)))
    assert tokenizer.encode_batch([TEXT])[0].tolist() == [0, 0, 0, 0, 6, 0, 7]
    assert tokenizer.reserved_ids == {1, 2, 3, 4, 5}
    assert tokenizer.configured_special == set(NAMES)
    assert tokenizer.decode([2, 5]) == "<|one|> <|four|>"
    named = load_tokenizer(str(tmp_path / "t"), "hello")
    assert named.reserved_ids == {1, 2, 3, 4, 5, 7}


@pytest.mark.parametrize("key", ["bos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"])
def test_each_role_is_read(tmp_path: Path, key: str) -> None:
    tokenizer = load_tokenizer(str(folder_with(tmp_path / "t", tokenizer_config={key: "<|one|>"})))
    assert tokenizer.encode_batch(["<|one|> hello"])[0].tolist() == [0, 7]
    assert tokenizer.reserved_ids == {1, 2}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"extra_special_tokens": {"image_token": "<|one|>"}}},
        {"tokenizer_config": {"extra_special_tokens": ["<|one|>"]}},
        {"tokenizer_config": {"model_specific_special_tokens": {"image_token": "<|one|>"}}},
        {"tokenizer_config": {"additional_special_tokens": [{"content": "<|one|>"}]}},
        {"special_tokens_map": {"additional_special_tokens": ["<|one|>"]}},
        {"special_tokens_map": {"image_token": {"content": "<|one|>"}, "eos_token": "</s>"}},
    ],
)
def test_each_list_is_read(tmp_path: Path, files: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(str(folder_with(tmp_path / "t", **files)))
    assert tokenizer.encode_batch(["<|one|> <|two|> hello"])[0].tolist() == [0, 3, 7]


@pytest.mark.parametrize("config", [None, [], {"bos_token": None, "pad_token": 3, "added_tokens_decoder": []}])
def test_a_configuration_that_names_nothing_changes_nothing(tmp_path: Path, config: Any) -> None:
    alone = load_tokenizer(str(folder_with(tmp_path / "alone")))
    tokenizer = load_tokenizer(str(folder_with(tmp_path / "t", tokenizer_config=config, special_tokens_map=config)))
    assert tokenizer.encode_batch([TEXT])[0].tolist() == [2, 3, 4, 5, 6, 0, 7]
    assert tokenizer.hash == alone.hash


def test_the_hash_has_only_what_the_definition_does_not_say(tmp_path: Path) -> None:
    def hash_with(name: str, **config: Any) -> str:
        return load_tokenizer(str(folder_with(tmp_path / name, tokenizer_config=config))).hash

    alone = hash_with("a", eos_token="</s>")
    assert hash_with("b", eos_token="</s>", unk_token="[UNK]", pad_token="<|of no vocabulary|>") == alone
    one = hash_with("c", bos_token="<|one|>")
    assert one == hash_with("d", pad_token="<|one|>", additional_special_tokens=["<|one|>"])
    assert len({alone, one, hash_with("e", bos_token="<|two|>")}) == 3


def test_a_dataset_keeps_the_names(tmp_path: Path, convert: CommandLine) -> None:
    """The processes that encode load the tokenizer that the dataset keeps, and so does transformers."""
    transformers = pytest.importorskip("transformers")
    folder = folder_with(tmp_path / "t", tokenizer_config=CONFIG)
    source = write_texts(tmp_path / "a.jsonl", [TEXT])
    outcome = convert(source, "--tokenizer", folder, "--max-lost", 1, tmp_path / "out")
    assert outcome.code == 0, outcome.errors
    assert documents_of(tmp_path / "out") == [[0, 0, 0, 0, 6, 0, 7, 1]]
    original = load_tokenizer(str(folder))
    for loaded in (load_saved_tokenizer(tmp_path / "out"), load_tokenizer(str(tmp_path / "out"))):
        assert (loaded.hash, loaded.reserved_ids) == (original.hash, original.reserved_ids)
        assert loaded.encode_batch([TEXT])[0].tolist() == [0, 0, 0, 0, 6, 0, 7]
    with open_dataset(tmp_path / "out") as dataset:
        assert dataset.manifest.tokenizer.hash == original.hash
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert set(NAMES) < set(theirs.all_special_tokens)
    assert theirs.convert_tokens_to_ids(NAMES) == [2, 3, 4, 5]


def test_an_added_token_that_only_the_definition_calls_ordinary_is_special(tmp_path: Path) -> None:
    """As in a chat model, which lists `<|im_start|>` and has it in its definition without a mark."""
    definition = definition_of("byte_level")
    for token in definition["added_tokens"]:
        token["special"] = token["content"] != USER_DEFINED
    folder = folder_with(
        tmp_path / "t", tokenizer=definition, tokenizer_config={"additional_special_tokens": [USER_DEFINED]}
    )
    tokenizer = load_tokenizer(str(folder))
    (ids,) = tokenizer.encode_batch([f"a{USER_DEFINED}b"])
    assert not tokenizer.reserved_ids & set(ids.tolist())
    assert tokenizer.decode(ids) == f"a{USER_DEFINED}b"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces_of_a_model_become_control_symbols(tmp_path: Path, kind: str) -> None:
    """The shape of Gemma: the marks of a chat are user-defined symbols in the model."""
    from sentencepiece import SentencePieceProcessor

    model = sentencepiece_model(kind)
    plain = SentencePieceProcessor(model_proto=model)
    config = {
        "bos_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<0x0A>",
        "additional_special_tokens": [USER_DEFINED, "▁the"],
    }
    (tmp_path / "tokenizer.model").write_bytes(model)
    alone = load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer.model"))
    made = {plain.piece_to_id(USER_DEFINED), plain.piece_to_id("▁the")}
    assert tokenizer.reserved_ids == alone.reserved_ids | made
    assert tokenizer.hash != alone.hash
    texts = [f"a{USER_DEFINED}b", "the", f"x the {USER_DEFINED}", "the\n</s>"]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert not tokenizer.reserved_ids & set(ids.tolist()), text
    if kind == "bpe":
        assert tokenizer.decode(tokenizer.encode_batch(texts)[0]) == texts[0]
    assert tokenizer.encode_batch(["a shard of žluť"])[0].tolist() == plain.encode("a shard of žluť")
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    saved = load_saved_tokenizer(tmp_path / "saved")
    assert (saved.hash, saved.reserved_ids) == (tokenizer.hash, tokenizer.reserved_ids)


def test_the_file_of_special_tokens_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = folder_with(tmp_path / "hub", special_tokens_map={"pad_token": "<|one|>"})
    cache = tmp_path / "cache"
    cache.mkdir()

    def download(name: str, file: str, local_files_only: bool) -> str:
        if not (folder / file).exists():
            raise LocalEntryNotFoundError(file)
        (cache / file).write_bytes((folder / file).read_bytes())
        return str(cache / file)

    monkeypatch.setattr("tst_data.tokenizer.loading.hub_is_reachable", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_tokenizer("owner/name").configured_special == {"<|one|>"}


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_a_fifo_in_the_place_of_a_file_is_never_opened(tmp_path: Path, convert: CommandLine, name: str) -> None:
    folder = tmp_path / "t"
    folder.mkdir() if name.endswith(".model") else folder_with(folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    source = write_texts(tmp_path / "a.jsonl", [TEXT])
    refused = convert(source, "--tokenizer", folder, tmp_path / "out")
    message = rf"tokenizer .*/t/{name}: cannot be read \(it is a FIFO\); give the path of a tokenizer\.json or"
    check_refused(refused, message)
    if name in ("tokenizer.json", "tokenizer.model"):
        check_refused(convert(source, "--tokenizer", folder / name, tmp_path / "out"), message)


def test_devices_and_files_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InvalidInputError, match=r"tokenizer /dev/zero: cannot be read \(it is a device\); give the path"
    ):
        load_tokenizer("/dev/zero")
    monkeypatch.setattr("tst_data.tokenizer.loading.MAX_FILE_BYTES", 100)
    with pytest.raises(InvalidInputError, match=r"tokenizer\.json: has \d+ bytes, expected at most 100; give another"):
        load_tokenizer(str(folder_with(tmp_path / "t")))
