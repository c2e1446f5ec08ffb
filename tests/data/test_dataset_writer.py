"""Writing: what reaches the disk, and that an interruption at any place changes no byte of it.

python -m pytest tests/data/test_dataset_writer.py
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tst_data.dataset.journal import Journal
from tst_data.dataset.layout import default_shard_tokens
from tst_data.dataset.manifest import JOURNAL_NAME, TokenizerDescription
from tst_data.dataset.reader import open_dataset
from tst_data.dataset.writer import DatasetWriter, write_dataset
from tst_data.errors import DamagedDataError, InvalidInputError

END = 99
TOKENIZER = TokenizerDescription(name="test", kind="ids", hash="00")


class Killed(BaseException):
    """Like `kill -9` in these tests: nothing may clean up after it."""


def documents() -> list[NDArray[np.int64]]:
    """Documents within a shard, over several, empty, and ending exactly where one ends (shards of 32 tokens)."""
    random = np.random.default_rng(3)
    lengths = [10, 0, 20, 31, 0, 100, 5, 64, 7, 0, 0, 3, 43, 11]
    return [np.append(random.integers(0, END, length), END) for length in lengths]


def writer_on(folder: Path, **changes: Any) -> DatasetWriter:
    options: dict[str, Any] = {
        "vocabulary_size": 100,
        "end_of_text_id": END,
        "sample_tokens": 8,
        "shard_tokens": 32,
        "options": {"source": "test"},
    }
    return DatasetWriter(folder, **options | changes)


def append_all(writer: DatasetWriter) -> None:
    for row, tokens in enumerate(documents()):
        if row >= writer.resume_point.document:
            writer.append(tokens, id=f"id{row}", source=f"file{row % 2}", row=row)


def write(folder: Path) -> None:
    with writer_on(folder) as writer:
        append_all(writer)
        (folder / "tokenizer.json").write_text("{}")
        writer.finish(tokenizer=TOKENIZER, made={"tool": "test"}, files=["tokenizer.json"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("writer") / "undisturbed"
    write(folder)
    return contents(folder)


def test_a_finished_folder_holds_the_contract_and_nothing_else(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    num_tokens = sum(map(len, documents()))
    num_shards = -(-num_tokens // 32) + 1
    assert num_tokens % 32 > 8
    assert num_tokens % 8
    expected = {"index.json", "shards.parquet", "manifest.json", "manifest.sha256", "tokenizer.json"}
    expected |= {f"shard.{shard:05}.mds" for shard in range(num_shards)}
    expected |= {f"documents/shard.{shard:05}.parquet" for shard in range(num_shards)}
    assert set(undisturbed) == expected
    write(tmp_path / "again")
    with open_dataset(tmp_path / "again") as dataset:
        assert np.array_equal(dataset.read(0, num_tokens), np.concatenate(documents()))
        assert dataset.shard_tokens.tolist()[:-2] == [32] * (num_shards - 2)
        assert dataset.shard_tokens[-1] == num_tokens % 8
        assert set(dataset.manifest.files) == {"index.json", "shards.parquet", "tokenizer.json"}
        assert dataset.manifest.made == {"tool": "test"}
        dataset.verify()


def kill_at(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, call: int, after: bool) -> Callable[[], int]:
    """Make the call with this number the last thing that the process does."""
    original = getattr(target, name)
    calls = 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        result = original(*arguments, **keywords)
        if calls == call:
            raise Killed
        return result

    monkeypatch.setattr(target, name, counted)
    return lambda: calls


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["append", "write_atomically", "write_shard_table", "write_manifest"])
def test_killed_at_every_commit_the_dataset_is_bit_identical(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    import tst_data.dataset.shard_writer
    import tst_data.dataset.writer

    target = {"append": Journal, "write_atomically": tst_data.dataset.shard_writer}.get(step, tst_data.dataset.writer)
    for call in range(1, 100):
        folder = tmp_path / str(call)
        with monkeypatch.context() as patch:
            calls = kill_at(patch, target, step, call, after)
            with contextlib.suppress(Killed):
                write(folder)
            if calls() < call:
                break
        with pytest.raises(InvalidInputError, match="not finished"):
            open_dataset(folder)
        write(folder)
        assert contents(folder) == undisturbed
    num_shards = sum(name.endswith(".mds") for name in undisturbed)
    assert call - 1 == {"append": num_shards, "write_atomically": 2 * num_shards}.get(step, 1)


def test_killed_after_every_shard_twice_over(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Each writer commits one shard more than the one before it, then ends without `finish`."""
    folder = tmp_path / "dataset"
    for committed in range(1, len(undisturbed)):
        with writer_on(folder) as writer:
            rows = range(writer.resume_point.document, len(documents()))
            for row in rows:
                writer.append(documents()[row], id=f"id{row}", source=f"file{row % 2}", row=row)
                if writer.num_shards >= committed:
                    break
            else:
                break
    write(folder)
    assert contents(folder) == undisturbed


def test_a_torn_journal_and_leftovers_of_a_killed_writer_do_no_harm(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with writer_on(tmp_path / "whole") as writer:
        append_all(writer)
    journal = (tmp_path / "whole" / JOURNAL_NAME).read_bytes()
    ends = [position + 1 for position, byte in enumerate(journal) if byte == ord("\n")]
    cuts = [0, 3, ends[0] - 1, ends[0], ends[0] + 1, ends[3] - 1, ends[3] + 5, len(journal) - 1]
    for cut in cuts:
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / str(cut)))
        (folder / JOURNAL_NAME).write_bytes(journal[:cut])
        (folder / "shard.00099.mds.part").write_bytes(b"leftover")
        write(folder)
        assert contents(folder) == undisturbed
    folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "zeros"))
    (folder / JOURNAL_NAME).write_bytes(journal[: ends[2]] + bytes(40) + b"\n")
    write(folder)
    assert contents(folder) == undisturbed


def test_a_journal_damaged_in_its_middle_is_refused(tmp_path: Path) -> None:
    with writer_on(tmp_path / "dataset") as writer:
        append_all(writer)
    path = tmp_path / "dataset" / JOURNAL_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    for number in (0, 2):
        path.write_bytes(b"".join([*lines[:number], b"{]\n", *lines[number + 1 :]]))
        with pytest.raises(DamagedDataError, match=f"line {number + 1} is damaged"):
            writer_on(tmp_path / "dataset")


def test_resume_point_counts_documents_and_their_written_tokens(tmp_path: Path) -> None:
    with writer_on(tmp_path / "dataset") as writer:
        assert (writer.resume_point.document, writer.resume_point.tokens) == (0, 0)
        append_all(writer)
    with writer_on(tmp_path / "dataset") as writer:
        point = writer.resume_point
        written = sum(len(tokens) for tokens in documents()[: point.document]) + point.tokens
        assert written == writer.num_tokens == writer.num_shards * 32
        assert 0 < point.tokens < len(documents()[point.document])


def test_a_source_that_has_changed_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "shorter", tmp_path / "ended"):
        with writer_on(folder) as writer:
            append_all(writer)
    with writer_on(tmp_path / "shorter") as writer, pytest.raises(InvalidInputError, match="the source has changed"):
        writer.append([END], id="a", source="file", row=0)
    with writer_on(tmp_path / "ended") as writer, pytest.raises(InvalidInputError, match="it has changed"):
        writer.finish(tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    "change", [{"vocabulary_size": 101}, {"shard_tokens": 64}, {"options": {"source": "other"}}, {"dtype": "uint32"}]
)
def test_resuming_with_other_options_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    writer_on(tmp_path / "dataset").close()
    with pytest.raises(InvalidInputError, match=f"was begun with {next(iter(change))} "):
        writer_on(tmp_path / "dataset", **change)


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with writer_on(tmp_path / "dataset"), pytest.raises(InvalidInputError, match="another process is writing"):
        writer_on(tmp_path / "dataset")


def test_a_finished_dataset_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "dataset")
    before = contents(tmp_path / "dataset")
    with pytest.raises(InvalidInputError, match="holds a finished dataset"):
        writer_on(tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == before


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 100, END], "token id 100 is outside the vocabulary of 100 tokens"),
        ([1, -1, END], "token id -1 is outside"),
        ([1, 2], "ends with token 2, expected end-of-text 99"),
        ([], "expected a list of token ids"),
        ([[END]], "expected a list of token ids"),
        ([0.5, 99.0], "expected a list of token ids"),
    ],
)
def test_what_is_not_tokens_is_refused(tmp_path: Path, tokens: Any, message: str) -> None:
    with writer_on(tmp_path / "dataset") as writer, pytest.raises(InvalidInputError, match=message) as caught:
        writer.append(tokens, id="a", source="file.txt", row=7)
    assert "file.txt, row 7" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end_of_text_id": 100}, "end_of_text_id: 100 is outside the vocabulary of 100 tokens"),
        ({"vocabulary_size": 70_000, "dtype": "uint16"}, "'uint16' cannot hold a vocabulary of 70000"),
        ({"dtype": "int64"}, "dtype: 'int64' cannot hold"),
        ({"shard_tokens": 33}, r"shard_tokens: expected a multiple of the 8 tokens of a sample \(given: 33\)"),
        ({"shard_tokens": 0}, r"shard_tokens: expected a multiple of the 8 tokens of a sample \(given: 0\)"),
        ({"sample_tokens": 0}, r"sample_tokens: expected at least 1 \(given: 0\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        writer_on(tmp_path / "dataset", **change)


def test_no_documents_make_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least one document"):
        write_dataset(tmp_path / "dataset", [], vocabulary_size=10, end_of_text_id=9)


def test_an_empty_document_is_its_end_of_text(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", [[]], vocabulary_size=10, end_of_text_id=9)
    assert dataset.read(0, 1).tolist() == [9]
    assert dataset.num_tokens == dataset.manifest.num_documents == dataset.num_shards == 1


def test_default_shards_are_about_64_mb() -> None:
    for dtype, itemsize in (("uint16", 2), ("uint32", 4)):
        assert 63e6 < default_shard_tokens(dtype, 4096) * itemsize <= 64e6
    assert default_shard_tokens("uint16", 1 << 30) == 1 << 30


def test_same_tokens_have_the_same_fingerprint_under_any_name_and_in_any_folder(tmp_path: Path) -> None:
    write(tmp_path / "one")
    with writer_on(tmp_path / "two", options={}) as writer:
        for row, tokens in enumerate(documents()):
            writer.append(tokens, id="x", source="y", row=row + 5)
        manifest = writer.finish(tokenizer=TOKENIZER.model_copy(update={"name": "other"}))
    assert manifest.fingerprint == open_dataset(tmp_path / "one").fingerprint
