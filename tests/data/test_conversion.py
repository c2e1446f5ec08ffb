"""`tst-data convert`, `inspect` and `verify` through the command line, from documents to token streams."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest

from tst_data.cli import app
from tst_data.command_line import run_app
from tst_data.commands.convert import parse_share
from tst_data.commands.progress import describe, seconds_left
from tst_data.conversion.encode_worker import write_frame
from tst_data.conversion.local_engine import EncodingPool
from tst_data.conversion.pipeline import ConversionProgress, in_validation
from tst_data.dataset.reader import open_dataset
from tst_data.dataset.writer import DatasetWriter
from tst_data.errors import InvalidInputError, TSTError
from tst_data.streaming_compat import import_streaming
from tst_data.tokenizer.loading import ByteTokenizer

END_OF_TEXT = 256


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        return json.loads(self.output)


CommandLine = Callable[..., Outcome]


@pytest.fixture
def tst_data(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """`tst_data("convert", ...)` runs the command line in this process, just as the console script does."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            run_app(app, [str(argument) for argument in arguments])
        code = ended.value.code
        assert isinstance(code, int)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def convert(tst_data: CommandLine) -> CommandLine:
    """`convert(source, ..., out)` with the tokenizer `bytes` and one worker, unless told otherwise."""

    def run(*arguments: object) -> Outcome:
        defaults: list[object] = []
        if "--tokenizer" not in arguments:
            defaults += ["--tokenizer", "bytes"]
        if "--workers" not in arguments:
            defaults += ["--workers", 1]
        return tst_data("convert", *arguments[:-1], *defaults, "--out", arguments[-1])

    return run


def documents_of(folder: Path) -> list[list[int]]:
    """The token ids of every document, as the document index cuts the token stream."""
    with open_dataset(folder) as dataset:
        index = dataset.documents(0, dataset.num_tokens)
        return [dataset.read(document.first_token, document.length).tolist() for document in index]


def tokens_of(text: str) -> list[int]:
    return [*text.encode(), END_OF_TEXT]


def hashes_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    return write_jsonl(path, [{"text": text} for text in texts])


def check_refused(outcome: Outcome, message: str) -> None:
    assert outcome.code != 0
    lines = outcome.errors.strip().splitlines()
    assert len(lines) == 1, outcome.errors
    assert re.search(message, lines[0]), lines[0]
    assert lines[0].startswith("error: ")
    assert outcome.output == ""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of 300 documents in three files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    random = np.random.default_rng(5)
    texts = [" ".join(random.choice(["alpha", "beta", "gamma", "délta"], length)) for length in range(300)]
    write_texts(folder / "a.jsonl", texts[:100])
    with gzip.open(folder / "b.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[100:299])
    (folder / "c.txt").write_text(texts[299])
    return folder


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


@pytest.mark.parametrize("tokenizer", ["bytes", "train:400"])
def test_the_result_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    monkeypatch.setattr("tst_data.conversion.pipeline.BATCH_BYTES", 2000)
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


def test_ready_made_token_ids_are_taken_as_they_are(tmp_path: Path, convert: CommandLine) -> None:
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


def test_the_finished_command_again_does_nothing(tmp_path: Path, corpus: Path, convert: CommandLine) -> None:
    out = tmp_path / "out"
    assert convert(corpus, "--validation", "0.1", out).code == 0
    before = hashes_of(out)
    again = convert(corpus, "--validation", "10%", "--workers", 2, out)
    assert again.code == 0
    assert "nothing to do" in again.output
    assert hashes_of(out) == before
    check_refused(convert(corpus, out), r"already holds another dataset; choose another --out")
    check_refused(convert(corpus, "--validation", "0.1", "--lines", out), r"already holds another dataset")
    (corpus / "d.txt").write_text("one more")
    check_refused(convert(corpus, "--validation", "0.1", out), r"already holds another dataset")
    assert hashes_of(out) == before


def test_a_destination_that_holds_something_else_is_left_alone(
    tmp_path: Path, corpus: Path, convert: CommandLine
) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    file.write_text("more work")
    for out in (folder, file):
        check_refused(convert(corpus, out), r"already holds something else; choose another --out")
    (tmp_path / "x-validation").mkdir()
    (tmp_path / "x-validation" / "mine").touch()
    check_refused(convert(corpus, "--validation", "0.1", tmp_path / "x"), r"x-validation: already holds something")
    (tmp_path / ".y.converting").mkdir()
    (tmp_path / ".y.converting" / "mine").touch()
    check_refused(convert(corpus, tmp_path / "y"), r"holds 'mine', which no conversion put there")
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / ".y.converting" / "mine").exists()
    (tmp_path / "empty").mkdir()
    assert convert(corpus, tmp_path / "empty").code == 0


def test_an_interrupted_conversion_is_not_mixed_with_another(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, staging = tmp_path / "out", tmp_path / ".out.converting"
    with monkeypatch.context() as patch:
        patch.setattr("tst_data.conversion.output.DatasetWriter.finish", interrupt)
        outcome = convert(corpus, "--shard-tokens", 4096, out)
        assert outcome.code == 130
        assert "give the same command again" in outcome.errors
    assert staging.is_dir()
    assert not out.exists()
    check_refused(convert(corpus, "--lines", "--shard-tokens", 4096, out), r"interrupted conversion with lines False")
    os.utime(corpus / "c.txt", (1, 1))
    check_refused(convert(corpus, "--shard-tokens", 4096, out), r"interrupted conversion with other source files")
    with (staging / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        check_refused(convert(corpus, out), r"another process is converting into it")
    assert convert(corpus, "--lines", "--restart", out).code == 0
    assert not staging.exists()


def interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_files_that_are_wholly_converted_are_not_read_again(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--validation", "0.2", "--shard-tokens", 4096)
    assert convert(corpus, *options, tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        commit, committed = DatasetWriter._commit, []

        def commit_some(self: DatasetWriter, length: int) -> None:
            if len(committed) == 15:
                raise KeyboardInterrupt
            committed.append(length)
            commit(self, length)

        patch.setattr(DatasetWriter, "_commit", commit_some)
        assert convert(corpus, *options, tmp_path / "out").code == 130
    first = corpus / "a.jsonl"
    status = first.stat()
    first.write_bytes(b"\xff" * status.st_size)
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert convert(corpus, *options, tmp_path / "out").code == 0
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "whole")
    assert hashes_of(tmp_path / "out-validation") == hashes_of(tmp_path / "whole-validation")


@pytest.mark.parametrize("step", ["write_manifest", "rename", "last rename", "remove"])
def test_an_end_that_was_cut_short_is_taken_up(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    options = ("--validation", "0.2", "--shard-tokens", 4096)
    assert convert(corpus, *options, tmp_path / "whole").code == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        if step == "write_manifest":
            patch.setattr("tst_data.dataset.writer.write_manifest", interrupt)
        elif step == "remove":
            patch.setattr("tst_data.conversion.staging.Staging.remove", interrupt)
        else:
            rename, calls = os.rename, []

            def rename_once(*paths: Path) -> None:
                calls.append(paths)
                if step == "rename" or len(calls) == 2:
                    raise KeyboardInterrupt
                rename(*paths)

            patch.setattr("tst_data.conversion.staging.os.rename", rename_once)
        assert convert(corpus, *options, out).code == 130
    assert convert(corpus, *options, out).code == 0
    assert hashes_of(out) == hashes_of(tmp_path / "whole")
    assert hashes_of(tmp_path / "out-validation") == hashes_of(tmp_path / "whole-validation")
    assert not (tmp_path / ".out.converting").exists()


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
        ([tmp_path / "nowhere.txt"], r"nowhere\.txt: no such file or folder"),
        ([empty], r"empty\.jsonl: no documents"),
        ([tmp_path / "folder.jsonl"], r"folder holds no files"),
        ([blank], r"blank\.jsonl: every document is empty, .*check the files, --column \('text' now\)"),
        ([broken], r"broken\.jsonl\.gz: damaged or cut-off gzip file"),
        ([latin], r"latin\.txt: not UTF-8 at byte 3"),
        ([good, bad], r"bad\.jsonl: line 2: not JSON"),
        ([null], r"null\.jsonl: line 2: column 'text' is null"),
        ([good, "--column", "body"], r"no column 'body'; choose with --column from: text"),
        ([good, "--tokenizer", tmp_path / "none.json"], r"none\.json: no such file or folder"),
        ([good, "--tokenizer", tmp_path / "t.json"], r"no end-of-text token found"),
        ([good, "--tokenizer", "train:12"], r"expected train:SIZE"),
        ([good, "--validation", "half"], r"--validation half: expected a share"),
        ([good, "--validation", "100%"], r"--validation 100%: expected a share"),
        ([good, "--validation", "0.0001%"], r"--validation 1e-06: leaves no document for validation"),
        ([few, "--validation", "80%"], r"--validation 0.8: leaves no document but empty ones for training"),
        ([good, "--workers", 0], r"0 workers cannot encode"),
        ([good, "--shard-tokens", 5000], r"5000"),
    ]
    elsewhere: list[tuple[Path, str, str]] = [
        (good, "s3://bucket/out", r"--out s3://bucket/out: expected a folder on this machine"),
        (good, f"{good}/below/out", r"good\.jsonl/below/out: cannot be written: .*good\.jsonl is not a folder"),
        (tmp_path, str(out), r"out: lies in the source folder"),
    ]
    before = sorted(tmp_path.iterdir())
    for arguments, message in cases:
        check_refused(convert(*arguments, out), message)
        assert sorted(tmp_path.iterdir()) == before, arguments
    monkeypatch.chdir(tmp_path)
    for source, destination, message in elsewhere:
        check_refused(convert(source, destination), message)
        assert sorted(tmp_path.iterdir()) == before, destination


def test_sources_that_change_meanwhile_are_refused(
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


def test_inspect_and_verify(tmp_path: Path, corpus: Path, tst_data: CommandLine, convert: CommandLine) -> None:
    out = tmp_path / "out"
    report = convert(corpus, "--shard-tokens", 4096, "--json", out).json
    facts = tst_data("inspect", out, "--json").json
    assert facts["fingerprint"] == report["fingerprint"]
    assert (facts["documents"], facts["shards"], facts["dtype"]) == (300, report["shards"], "uint16")
    assert facts["tokenizer"]["name"] == "bytes"
    assert facts["made"]["sources"] == [str(corpus)]
    assert facts["first_documents"][1]["id"] == f"{corpus}/a.jsonl#1"
    assert report["fingerprint"] in tst_data("inspect", out).output
    assert tst_data("verify", out, "--json").json["valid"] is True
    shard = out / "shard.00001.mds"
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    check_refused(tst_data("verify", out), r"shard\.00001\.mds.*piece 0")
    check_refused(tst_data("inspect", tmp_path / "nowhere"), r"nowhere': does not exist; ")


@pytest.mark.parametrize(("value", "share"), [("0.5%", 0.005), ("0.005", 0.005), ("0", 0.0), (" 20 %", 0.2)])
def test_shares_are_read(value: str, share: float) -> None:
    assert parse_share(value) == pytest.approx(share)


@pytest.mark.parametrize("value", ["", "%", "1", "-1%", "nan", "inf", "0.5%%"])
def test_wrong_shares_are_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a share"):
        parse_share(value)


def test_progress_is_told_in_words() -> None:
    progress = ConversionProgress(
        stage="converting",
        documents=1200,
        tokens=50_000,
        bytes_done=300,
        bytes_total=1200,
        seconds=10.0,
        encoded_tokens=40_000,
        encoded_bytes=200,
    )
    assert seconds_left(progress) == 45.0
    assert describe(progress) == "converting 25%, 1,200 documents, 50,000 tokens, 4,000 tokens/s, 0:00:45 left"


@dataclass
class Batch:
    texts: list[bytes]

    def place(self, text: int) -> str:
        return f"text {text}"


def test_a_text_that_the_tokenizer_cannot_encode_is_named(
    tmp_path: Path, convert: CommandLine, tst_data: CommandLine
) -> None:
    definition = {"model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "[UNK]"}}
    (tmp_path / "t.json").write_text(json.dumps(definition))
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": [0]}, {"text": "a"}, {"text": "b"}])
    before = sorted(tmp_path.iterdir())
    check_refused(
        convert(source, "--tokenizer", tmp_path / "t.json", "--workers", 2, tmp_path / "out"),
        r"a\.jsonl: row 3: the tokenizer cannot encode this text \(.*\[UNK\].*\); use one that has an unknown token",
    )
    assert sorted(tmp_path.iterdir()) == before


def test_a_worker_that_cannot_load_its_tokenizer_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        EncodingPool(tmp_path, "uint16", 1) as pool,
        pytest.raises(TSTError, match=r"an encoding process cannot encode \(.*holds no tokenizer.*\); correct that"),
    ):
        list(pool.encode(Batch([b"x" * 1000] * 1000) for _ in range(10)))
    assert capfd.readouterr().err == ""


def test_a_worker_that_fails_ends_with_its_own_error(tmp_path: Path) -> None:
    """Python must not abort because a thread still waits for stdin."""
    ByteTokenizer().save(tmp_path)
    program = (
        "import sys\nfrom tst_data.conversion import encode_worker\n"
        "encode_worker.pack = lambda *arguments: exec('raise MemoryError(\"all of it\")')\n"
        "encode_worker.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), "uint16"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        write_frame(cast("BinaryIO", worker.stdin), [1], b"x")
        errors = worker.stderr.read()  # with stdin still open
        assert worker.wait() == 1
    assert b"all of it" in errors
    assert b"Fatal" not in errors


def test_no_import_is_under_way_when_a_conversion_ends(
    tmp_path: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing: list[threading.Thread] = []

    def slow_import() -> None:
        importing.append(threading.current_thread())
        time.sleep(0.5)
        raise RuntimeError("can't register atexit after shutdown")

    monkeypatch.setattr("tst_data.conversion.pipeline.BATCH_BYTES", 100)
    monkeypatch.setattr("tst_data.conversion.pipeline.import_streaming", slow_import)
    source = write_texts(tmp_path / "a.jsonl", [f"document {number}" for number in range(60)])
    check_refused(convert(source, "--validation", "1e-9", tmp_path / "out"), r"leaves no document for validation")
    assert importing
    assert not any(thread.is_alive() for thread in importing)


def test_a_worker_that_dies_is_reported_and_workers_end_with_the_pool(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    with EncodingPool(tmp_path, "uint16", 2) as pool:
        results = pool.encode(Batch([b"x" * 1000] * 10) for _ in range(100))
        _, first = next(results)
        assert [len(tokens) for tokens in first] == [1001] * 10
        os.kill(pool._workers[1].pid, signal.SIGKILL)
        with pytest.raises(TSTError, match=r"an encoding process was killed by signal 9 .* to go on"):
            list(results)
        workers = pool._workers
    assert all(worker.poll() is not None for worker in workers)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    program = (
        "import sys, time; from pathlib import Path; from types import SimpleNamespace\n"
        "from tst_data.conversion.local_engine import EncodingPool\n"
        "pool = EncodingPool(Path(sys.argv[1]), 'uint16', 2)\n"
        "next(pool.encode(SimpleNamespace(texts=[b'x'], place=str) for _ in range(20)))\n"
        "print(*[worker.pid for worker in pool._workers], flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(_is_alive, workers)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


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
