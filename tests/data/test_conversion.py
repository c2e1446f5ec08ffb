"""What `tst-data convert` makes of documents: token streams, splits, and the same bytes with any number of workers."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests.support.conversion import (
    END_OF_TEXT,
    CommandLine,
    check_refused,
    documents_of,
    hashes_of,
    tokens_of,
    write_jsonl,
    write_texts,
)
from tst_data.conversion.splits import in_validation
from tst_data.dataset.reader import open_dataset
from tst_data.streaming_compat import import_streaming


def test_every_document_is_closed_by_end_of_text_in_the_order_of_the_sources(
    tmp_path: Path, convert: CommandLine
) -> None:
    texts = ["one", "", "<|endoftext|> stays text", "žluť"]
    (tmp_path / "z.txt").write_text("first given")
    write_texts(tmp_path / "a.jsonl", texts)
    outcome = convert(tmp_path / "z.txt", tmp_path / "a.jsonl", "--json", tmp_path / "out")
    assert outcome.code == 0, outcome.errors
    assert documents_of(tmp_path / "out") == [tokens_of(text) for text in ["first given", *texts]]
    with open_dataset(tmp_path / "out") as dataset:
        second = dataset.documents(12, 1)[0]
        assert (second.source, second.row, second.id) == (f"{tmp_path}/a.jsonl", 0, f"{tmp_path}/a.jsonl#0")
        assert dataset.tokenizer().decode(dataset.read(0, 12)) == "first given<|endoftext|>"
        report = outcome.json
        assert report["fingerprint"] == dataset.fingerprint
        assert (report["documents"], report["tokens"]) == (5, dataset.num_tokens)
        assert report["tokens_per_second"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out", "z.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["bytes", "train:400"])
def test_the_result_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    monkeypatch.setattr("tst_data.conversion.document_batches.BATCH_BYTES", 2000)
    options = ("--tokenizer", tokenizer, "--validation", "10%", "--shard-tokens", 4096)
    for workers in (1, 3):
        assert convert(corpus, *options, "--workers", workers, tmp_path / f"{workers}").code == 0
    assert hashes_of(tmp_path / "1") == hashes_of(tmp_path / "3")
    assert hashes_of(tmp_path / "1-validation") == hashes_of(tmp_path / "3-validation")


@pytest.mark.parametrize(
    ("package", "tokenizer"), [("tokenizers", "train:400"), ("streaming", "bytes"), ("zstandard", "bytes")]
)
def test_a_missing_package_of_the_extra_convert_is_named(
    tmp_path: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch, package: str, tokenizer: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.setattr("tst_data.dataset.mds.import_streaming", import_streaming)
    source = write_texts(tmp_path / "a.jsonl", ["text"])
    if package == "zstandard":
        source = source.rename(tmp_path / "a.jsonl.zst")
    refused = convert(source, "--tokenizer", tokenizer, tmp_path / "out")
    check_refused(refused, rf"error: {package}: is not installed; install it with: .*\[convert\]'$")


@pytest.mark.needs_streaming
def test_plain_streaming_reads_the_same_tokens(tmp_path: Path, corpus: Path, convert: CommandLine) -> None:
    assert convert(corpus, "--shard-tokens", 8192, tmp_path / "out").code == 0
    local = import_streaming().StreamingDataset(local=str(tmp_path / "out"), shuffle=False, batch_size=1)
    stream = np.concatenate([local[index]["tokens"] for index in range(len(local))])
    with open_dataset(tmp_path / "out") as dataset:
        assert dataset.num_shards > 3
        assert np.array_equal(stream, dataset.read(0, dataset.num_tokens))


def test_validation_is_a_share_by_hash_and_disjoint(tmp_path: Path, convert: CommandLine) -> None:
    texts = [f"document {number % 900}" for number in range(1000)]
    write_texts(tmp_path / "a.jsonl", texts)
    report = convert(tmp_path / "a.jsonl", "--validation", "20%", "--json", tmp_path / "out").json
    training, validation = documents_of(tmp_path / "out"), documents_of(tmp_path / "out-validation")
    assert validation == [tokens_of(text) for text in texts if in_validation(text.encode(), 0.2)]
    assert training == [tokens_of(text) for text in texts if not in_validation(text.encode(), 0.2)]
    assert not {*map(tuple, training)} & {*map(tuple, validation)}
    assert 140 < len(validation) < 260
    assert report["validation"]["documents"] == len(validation)
    assert {number for number in range(900) if in_validation(b"document %d" % number, 0.05)} < {
        number for number in range(900) if in_validation(b"document %d" % number, 0.2)
    }


def test_token_ids_that_are_ready_are_taken_as_they_are(tmp_path: Path, convert: CommandLine) -> None:
    ids = [[5, 6, 7], [], [8, END_OF_TEXT]]
    source = write_jsonl(tmp_path / "a.jsonl", [{"ids": row, "name": f"n{row}"} for row in ids])
    assert convert(source, "--column", "ids", "--id-column", "name", tmp_path / "out").code == 0
    assert documents_of(tmp_path / "out") == [[5, 6, 7, END_OF_TEXT], [END_OF_TEXT], [8, END_OF_TEXT]]
    source = write_jsonl(tmp_path / "b.jsonl", [{"ids": [1, 257]}])
    check_refused(convert(source, "--column", "ids", tmp_path / "b"), r"row 0: token id 257 is outside the vocab")
    source = write_jsonl(tmp_path / "c.jsonl", [{"ids": [-1]}])
    check_refused(convert(source, "--column", "ids", tmp_path / "c"), r"token id -1 is outside the vocabulary of 257")
    assert not list(tmp_path.glob(".*"))


def test_a_large_vocabulary_is_stored_as_uint32(tmp_path: Path, convert: CommandLine) -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {f"w{number}": number for number in range(70_000)} | {"<eos>": 70_000}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(tmp_path / "t.json"))
    (tmp_path / "a.txt").write_text("w69999")
    assert convert(tmp_path / "a.txt", "--tokenizer", tmp_path / "t.json", tmp_path / "out").code == 0
    assert documents_of(tmp_path / "out") == [[69_999, 70_000]]
    with open_dataset(tmp_path / "out") as dataset:
        assert dataset.dtype == np.uint32


def test_lines_include_and_skip_invalid(tmp_path: Path, convert: CommandLine) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "b.txt").write_bytes(b"three\nbad \xff\nfour")
    (folder / "c.log").write_text("not wanted")
    outcome = convert(folder, "--lines", "--include", "*.txt", "--skip-invalid", "--json", tmp_path / "out")
    assert documents_of(tmp_path / "out") == [tokens_of(text) for text in ("one", "two", "three", "four")]
    assert outcome.json["passed_over"] == 1


def test_no_import_is_running_when_a_conversion_ends(
    tmp_path: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing: list[threading.Thread] = []

    def slow_import() -> None:
        importing.append(threading.current_thread())
        time.sleep(0.5)
        raise RuntimeError("can't register atexit after shutdown")

    monkeypatch.setattr("tst_data.conversion.document_batches.BATCH_BYTES", 100)
    monkeypatch.setattr("tst_data.conversion.pipeline.import_streaming", slow_import)
    source = write_texts(tmp_path / "a.jsonl", [f"document {number}" for number in range(60)])
    check_refused(convert(source, "--validation", "1e-9", tmp_path / "out"), r"leaves no document for validation")
    assert importing
    assert not any(thread.is_alive() for thread in importing)


@pytest.mark.slow
def test_real_text_comes_back_from_its_dataset(tmp_path: Path, shared_data: Path, convert: CommandLine) -> None:
    source = tmp_path / "udhr.jsonl.gz"
    with gzip.open(shared_data / "udhr" / "udhr.jsonl.gz") as whole, gzip.open(source, "w") as part:
        part.writelines(islice(whole, 60))
    tokenizer = shared_data / "gpt2" / "tokenizer.json"
    outcome = convert(source, "--tokenizer", tokenizer, "--id-column", "lang", tmp_path / "out")
    assert outcome.code == 0, outcome.errors
    with gzip.open(source, "rt", encoding="utf-8") as lines, open_dataset(tmp_path / "out") as dataset:
        decoder = dataset.tokenizer()
        documents = dataset.documents(0, dataset.num_tokens)
        assert len(documents) == 60
        for line, document in zip(lines, documents, strict=True):
            record = json.loads(line)
            text = decoder.decode(dataset.read(document.first_token, document.length))
            assert (document.id, text) == (str(record["lang"]), record["text"] + "<|endoftext|>")
