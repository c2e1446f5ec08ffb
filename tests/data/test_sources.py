"""Sources: every format and compression gives the same documents, from any row on; errors name the place."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.sources.document import MAX_DOCUMENT_BYTES, ReadOptions, SourceDocument
from tst_data.sources.parts import find_sources, sources_digest

zstandard = pytest.importorskip("zstandard", reason="needs the extra 'convert'")

TEXTS = ["first", "", 'second, with "quotes"\nand a line break', "Žluťoučký kůň \U0001f40e", "tab\there", "x" * 5000]
IDS = [f"id-{number}" for number in range(len(TEXTS))]

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(
    *sources: Path | str, include: tuple[str, ...] = (), start: tuple[int, int] = (0, 0), **options: Any
) -> list[SourceDocument]:
    """All documents of the sources from (part, row) on."""
    documents: list[SourceDocument] = []
    for number, part in enumerate(find_sources([str(source) for source in sources], include)):
        if number >= start[0]:
            documents += part.read(ReadOptions(**options), start[1] if number == start[0] else 0)
            assert part.bytes_read == part.size_bytes
    return documents


def texts(documents: list[SourceDocument]) -> list[str]:
    return [(document.text or b"").decode() for document in documents]


def encode(kind: str, rows: dict[str, list[Any]]) -> bytes:
    """A file of columns, in one of the formats."""
    names, records = list(rows), [list(record) for record in zip(*rows.values(), strict=True)]
    if kind in ("jsonl", "ndjson", "json"):
        lines = [json.dumps(dict(zip(names, record, strict=True)), ensure_ascii=False) for record in records]
        return "\n".join(lines).encode()
    if kind in ("csv", "tsv"):
        target = io.StringIO(newline="")
        writer = csv.writer(target, delimiter="\t" if kind == "tsv" else ",")
        writer.writerows([names, *records])
        return target.getvalue().encode()
    table, sink = pa.table(rows), io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, sink, row_group_size=2)
    elif kind == "stream.arrow":
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    else:
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table, max_chunksize=2)
    return sink.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize(
    "kind", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow", "feather", "stream.arrow"]
)
def test_every_format_plain_or_compressed_gives_the_same_documents(tmp_path: Path, kind: str, compression: str) -> None:
    path = tmp_path / f"corpus.{kind}{compression}"
    path.write_bytes(COMPRESS[compression](encode(kind, {"name": IDS, "other": TEXTS[::-1], "body": TEXTS})))
    documents = read(path, column="body", id_column="name")
    assert texts(documents) == TEXTS
    assert [document.id for document in documents] == IDS
    assert [document.row for document in documents] == list(range(len(TEXTS)))
    for row in range(len(TEXTS) + 1):
        assert read(path, column="body", id_column="name", start=(0, row)) == documents[row:]


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_text_file_is_one_document_and_with_lines_each_line_is(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"notes.md{compression}"
    path.write_bytes(COMPRESS[compression](b"\xef\xbb\xbfone\r\ntwo\n\nthree"))
    assert texts(read(path)) == ["one\r\ntwo\n\nthree"]
    assert read(path, start=(0, 1)) == []
    lines = read(path, lines=True)
    assert texts(lines) == ["one", "two", "three"]
    assert [line.row for line in lines] == [0, 1, 3]
    assert read(path, lines=True, start=(0, 2)) == lines[2:]


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    (tmp_path / "empty.py").touch()
    assert texts(read(tmp_path / "empty.py")) == [""]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_lists_of_integers_are_token_ids(tmp_path: Path, kind: str) -> None:
    ids: list[list[int]] = [[1, 2, 3], [], [70000]]
    path = tmp_path / f"ids.{kind}"
    path.write_bytes(encode(kind, {"text": ids}))
    documents = read(path)
    assert [document.tokens.tolist() for document in documents if document.tokens is not None] == ids
    assert all(document.tokens is not None and document.tokens.dtype == np.int64 for document in documents)


def test_concatenated_compressed_members_are_read_to_the_end(tmp_path: Path) -> None:
    for suffix, compress in COMPRESS.items():
        path = tmp_path / f"two.txt{suffix}"
        path.write_bytes(compress(b"one ") + compress(b"two"))
        assert texts(read(path)) == ["one two"]


def test_folders_are_sorted_recursive_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.md", ".hidden.txt", ".git/config", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(read(tmp_path)) == ["a/b/c.md", "a/z.txt", "a.txt", "b.txt"]
    assert texts(read(tmp_path, include=("*.md", "b*"))) == ["a/b/c.md", "b.txt"]
    assert texts(read(f"{tmp_path}/*.txt")) == ["a.txt", "b.txt"]
    assert texts(read(f"{tmp_path}/**/*.txt", include=("z*",))) == ["a/z.txt"]
    assert texts(read(tmp_path / "b.txt", tmp_path / "a")) == ["b.txt", "a/b/c.md", "a/z.txt"]


def test_the_digest_follows_names_sizes_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = sources_digest(find_sources([str(path)]))
    assert sources_digest(find_sources([str(path)])) == first
    path.write_text("more")
    assert sources_digest(find_sources([str(path)])) != first


def test_saved_datasets_are_read_like_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_dict({"text": TEXTS, "name": IDS})
    saved.save_to_disk(tmp_path / "saved")
    documents = read(tmp_path / "saved", id_column="name")
    assert texts(documents) == TEXTS
    assert [document.id for document in documents] == IDS
    assert read(tmp_path / "saved", id_column="name", start=(0, 4)) == documents[4:]
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "splits")
    with pytest.raises(InvalidInputError, match=r"holds the splits train, test; give one of them"):
        read(tmp_path / "splits")
    assert texts(read(tmp_path / "splits" / "test")) == TEXTS


def test_a_damaged_saved_dataset_is_refused_with_what_helps(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    check_refused(r"saved: the dataset cannot be loaded \(.*\); save it again with `save_to_disk`", tmp_path / "saved")
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    check_refused(r"saved: the dataset cannot be loaded \(.*\); save it again with `save_to_disk`", tmp_path / "saved")


def test_without_network_the_hub_is_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tst_data.sources.hugging_face.hub_is_reachable", lambda: False)
    check_refused(r"hf://no-one/nothing: the dataset cannot be loaded \(.*\); check name, split", "hf://no-one/nothing")
    assert capfd.readouterr().err == ""
    offline: list[bool] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        offline.append(datasets.config.HF_HUB_OFFLINE)
        return datasets.Dataset.from_dict({"text": TEXTS})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert texts(read("hf://no-one/cached")) == TEXTS
    monkeypatch.setattr("tst_data.sources.hugging_face.hub_is_reachable", lambda: True)
    assert texts(read("hf://no-one/fetched")) == TEXTS
    assert offline == [True, False]
    assert datasets.config.HF_HUB_OFFLINE is False


def check_refused(message: str, *sources: Path | str, **options: Any) -> None:
    with pytest.raises((InvalidInputError, NotFoundError), match=message) as caught:
        read(*sources, **options)
    assert "\n" not in str(caught.value)


def test_sources_in_a_closed_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    stat = os.stat

    def refuse(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/closed/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for source in ("closed", "closed/a.txt", "closed/*.txt"):
        check_refused(re.escape(f"{source}: cannot be read (Permission denied)"), tmp_path / source)


def test_missing_sources_are_refused(tmp_path: Path) -> None:
    check_refused(r"nowhere\.txt: no such file or folder", tmp_path / "nowhere.txt")
    check_refused(r"\*\.txt: no file matches", f"{tmp_path}/*.txt")
    check_refused(r"folder holds no files", tmp_path)
    (tmp_path / "a.txt").touch()
    check_refused(r"holds no files matching \*\.py", tmp_path, include=("*.py",))
    check_refused(r"a\.txt: appears twice", tmp_path, tmp_path / "a.txt")
    check_refused(r"hf://a/b/c: is not the address of a dataset; give hf://owner/name", "hf://a/b/c")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
def test_damaged_and_incomplete_compression_is_refused(tmp_path: Path, suffix: str) -> None:
    packed = COMPRESS[suffix](bytes(range(97, 123)) * 500 + np.random.default_rng(1).bytes(5000).hex().encode())
    path = tmp_path / f"cut.txt{suffix}"
    for content in (packed[:-20], b"not packed at all, but long enough to be taken for something"):
        path.write_bytes(content)
        check_refused(rf"cut\.txt{suffix}: damaged or incomplete", path)


def test_text_that_is_not_utf8_is_refused_with_its_place_or_skipped(tmp_path: Path) -> None:
    text, lines, table = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.csv"
    text.write_bytes(b"caf\xe9")
    lines.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    table.write_bytes(b"id,text\n1,fine\n2,caf\xe9\n3,end\n")
    check_refused(r"a\.txt: not UTF-8 at byte 3 \(0xe9\); convert it", text)
    check_refused(r"b\.jsonl: line 2: not UTF-8 at byte 13", lines)
    check_refused(r"c\.csv: line 3: not UTF-8", table)
    skipped: list[str] = []
    assert texts(read(text, lines, table, on_skip=skipped.append)) == ["fine", "fine", "end"]
    assert len(skipped) == 3


def test_invalid_utf8_in_parquet_is_refused(tmp_path: Path) -> None:
    column = pa.StringArray.from_buffers(2, pa.array([0, 2, 4], pa.int32()).buffers()[1], pa.py_buffer(b"ok\xe9!"))
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    check_refused(r"a\.parquet: row 1: not UTF-8 at byte 0", tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', r"line 3: is not JSON \(Unterminated string.*write one JSON object per line"),
        ("[1, 2]", r"line 3: holds a list, expected an object; write one JSON object per line"),
        ('{"body": "x"}', r"line 3: no column 'text'; choose with --column from: body"),
        ('{"text": null}', r"line 3: column 'text' is null"),
        ('{"text": 5}', r"line 3: column 'text' holds a number, expected text or a list of token ids; correct it"),
        (
            '{"text": [1, "a"]}',
            r"line 3: column 'text' holds a list with values that are not whole numbers, expected text",
        ),
        ('{"text": [99999999999999999999]}', r"line 3: .* is not a token id"),
        ('{"text": "\\ud800"}', r"line 3: column 'text' holds a lone surrogate"),
        ("null", r"line 3: holds null, expected an object"),
        ("[" * 100_000, r"line 3: is not JSON"),
    ],
)
def test_malformed_jsonl_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    check_refused(message, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,a,b\n", r"line 2: 3 fields, but the header has 2; quote fields that hold commas"),
        ('id,text\n1,"open\n', r"line 2: malformed CSV \(.*\); correct the line"),
        ("id,body\n1,a\n", r"a\.csv: no column 'text'; choose with --column from: id, body"),
    ],
)
def test_malformed_csv_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    check_refused(message, tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_malformed_columnar_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"this is not such a file, its name is wrong")
    check_refused(rf"a\.{kind}: malformed", path)
    path.write_bytes(encode(kind, {"text": TEXTS})[:-30])
    check_refused(rf"a\.{kind}: malformed", path)
    path.write_bytes(encode(kind, {"title": TEXTS, "number": [1.5] * len(TEXTS)}))
    check_refused(r"no column 'text'; choose with --column from: title, number", path)
    check_refused(r"no column 'x'; choose with --id-column from", path, column="title", id_column="x")
    check_refused(r"column 'number' has the type double", path, column="number")
    path.write_bytes(encode(kind, {"text": ["a", None]}))
    check_refused(r"row 1: column 'text' is null", path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "arrow", "stream.arrow"])
def test_a_column_that_appears_twice_is_refused_where_it_is_asked_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text('{"id": "1", "text": "one", "text": "two", "body": {"x": 1, "x": 2}}')
    elif kind in ("csv", "tsv"):
        path.write_text("id,text,text,body\n1,one,two,three\n".replace(",", "," if kind == "csv" else "\t"))
    else:
        table = pa.Table.from_arrays([pa.array(["one"])] * 4, names=["id", "text", "text", "body"])
        with path.open("wb") as file:
            if kind == "parquet":
                pq.write_table(table, file)
            else:
                new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
                with new(file, table.schema) as writer:
                    writer.write_table(table)
    check_refused(r"column 'text' appears twice; rename", path)
    check_refused(r"column 'text' appears twice; rename", path, column="id", id_column="text")
    assert len(read(path, column="id")) == 1


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_ids_that_are_null_are_refused_with_their_row(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encode(kind, {"text": ["a", "b"], "name": ["x", None]}))
    check_refused(r"(row 1|line 2): id column 'name' is null; .*leave --id-column out", path, id_column="name")
    path.write_bytes(encode(kind, {"text": ["a", "b"], "name": [7, 0]}))
    assert [document.id for document in read(path, id_column="name")] == ["7", "0"]


def test_ids_that_are_not_unicode_are_refused_with_their_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "name": "\\ud800"}')
    check_refused(r"line 1: id column 'name' holds a lone surrogate", tmp_path / "a.jsonl", id_column="name")
    names = pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xe9!"))
    pq.write_table(pa.table({"text": ["a"], "name": names}), tmp_path / "a.parquet")
    check_refused(r"row 0: id column 'name' is not UTF-8 at byte 0", tmp_path / "a.parquet", id_column="name")


def test_documents_too_large_to_encode_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)
    check_refused(r"huge\.txt: the document is larger than 128 MiB", path)


def test_real_files_are_read(shared_data: Path) -> None:
    articles = read(shared_data / "wikitext-2" / "articles.parquet", id_column="title")
    assert len(articles) > 100
    assert sum(len(document.text or b"") for document in articles) > 2_000_000
    languages = read(shared_data / "udhr" / "udhr.jsonl.gz", id_column="lang")
    assert len(languages) == 388
    (plays,) = read(shared_data / "shakespeare" / "input.txt")
    assert plays.text == (shared_data / "shakespeare" / "input.txt").read_bytes()
