"""What `tst-data convert` refuses: one line that names the place, and nothing left on disk."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.conversion import (
    END_OF_TEXT,
    CommandLine,
    check_refused,
    write_jsonl,
    write_texts,
)
from tst_data.conversion.local_engine import EncodingPool
from tst_data.conversion.splits import in_validation


def test_bad_input_gives_one_line_and_leaves_nothing(
    tmp_path: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_texts(tmp_path / "good.jsonl", ["a", "b"])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": \n')
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    null = write_jsonl(tmp_path / "null.jsonl", [{"text": "a"}, {"text": None}])
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    blank = write_jsonl(tmp_path / "blank.jsonl", [{"text": ""}, {"text": []}, {"text": [END_OF_TEXT]}])
    few = write_texts(
        tmp_path / "few.jsonl", ["", *filter(lambda text: in_validation(text.encode(), 0.8), "0123456789")]
    )
    (tmp_path / "folder.jsonl").mkdir()
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-10])
    (tmp_path / "t.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}')
    out = tmp_path / "out"
    cases: list[tuple[list[object], str]] = [
        ([""], r"source '': is empty; give a file, folder, glob or hf://"),
        ([good, "--workers", 100_000], r"--workers 100000: expected 1 to 1024"),
        ([tmp_path / "nowhere.txt"], r"nowhere\.txt: no such file or folder"),
        ([empty], r"empty\.jsonl: no documents"),
        ([tmp_path / "folder.jsonl"], r"folder holds no files"),
        ([blank], r"blank\.jsonl: every document is empty, .*check the files, --column \(now 'text'\)"),
        ([broken], r"broken\.jsonl\.gz: damaged or incomplete gzip file"),
        ([latin], r"latin\.txt: not UTF-8 at byte 3"),
        ([good, bad], r"bad\.jsonl: line 2: is not JSON"),
        ([null], r"null\.jsonl: line 2: column 'text' is null"),
        ([good, "--column", "body"], r"no column 'body'; choose with --column from: text"),
        ([good, "--tokenizer", tmp_path / "none.json"], r"none\.json: no such file or folder"),
        ([good, "--tokenizer", tmp_path / "t.json"], r"no end-of-text token found"),
        ([good, "--tokenizer", "train:12"], r"expected train:SIZE"),
        ([good, "--validation", "half"], r"--validation half: expected a share of documents below 1"),
        ([good, "--validation", "100%"], r"--validation 100%: expected a share"),
        ([good, "--validation", "0.0001%"], r"--validation 1e-06: leaves no document for validation"),
        ([few, "--validation", "80%"], r"--validation 0.8: leaves only empty documents for training"),
        ([good, "--workers", 0], r"--workers 0: expected 1 to 1024"),
        ([good, "--shard-tokens", 5000], r"5000"),
    ]
    elsewhere: list[tuple[Path, str, str]] = [
        (good, "s3://bucket/out", r"--out s3://bucket/out: expected a folder on this machine"),
        (good, f"{good}/below/out", r"good\.jsonl/below/out: cannot be written: .*good\.jsonl is not a folder"),
        (tmp_path, str(out), r"out: is in the source folder"),
    ]
    before = sorted(tmp_path.iterdir())
    for arguments, message in cases:
        check_refused(convert(*arguments, out), message)
        assert sorted(tmp_path.iterdir()) == before, arguments
    monkeypatch.chdir(tmp_path)
    for source, destination, message in elsewhere:
        check_refused(convert(source, destination), message)
        assert sorted(tmp_path.iterdir()) == before, destination


def test_a_destination_that_holds_something_else_is_left_alone(
    tmp_path: Path, corpus: Path, convert: CommandLine
) -> None:
    folder, file, site = tmp_path / "folder", tmp_path / "file", tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text("{}")  # of something else: a web page has one too
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    file.write_text("more work")
    for out in (folder, file, site):
        check_refused(convert(corpus, out), r"already holds something else; choose another --out")
    (tmp_path / "x-validation").mkdir()
    (tmp_path / "x-validation" / "mine").touch()
    check_refused(convert(corpus, "--validation", "0.1", tmp_path / "x"), r"x-validation: already holds something")
    (tmp_path / ".y.converting").mkdir()
    (tmp_path / ".y.converting" / "mine").touch()
    check_refused(convert(corpus, tmp_path / "y"), r"holds 'mine', which is not from a conversion")
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / ".y.converting" / "mine").exists()
    (tmp_path / "empty").mkdir()
    assert convert(corpus, tmp_path / "empty").code == 0


def test_sources_that_change_during_the_conversion_are_refused(
    tmp_path: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_texts(tmp_path / "a.jsonl", ["a", "b"])
    encode = EncodingPool.encode

    def encode_and_touch(self: EncodingPool, batches: Any) -> Any:
        yield from encode(self, batches)
        os.utime(source, (1, 1))

    monkeypatch.setattr(EncodingPool, "encode", encode_and_touch)
    check_refused(convert(source, tmp_path / "out"), r"changed while they were converted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_a_text_that_the_tokenizer_cannot_encode_is_named(
    tmp_path: Path, convert: CommandLine, tst_data: CommandLine
) -> None:
    definition = {"model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "[UNK]"}}
    (tmp_path / "t.json").write_text(json.dumps(definition))
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": [0]}, {"text": "a"}, {"text": "b"}])
    before = sorted(tmp_path.iterdir())
    check_refused(
        convert(source, "--tokenizer", tmp_path / "t.json", "--workers", 2, tmp_path / "out"),
        r"a\.jsonl: row 3: the tokenizer cannot encode this text \(.*\[UNK\].*\); use one with an unknown token",
    )
    assert sorted(tmp_path.iterdir()) == before
