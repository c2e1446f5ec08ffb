"""What was opened and verified is what is read: a folder or file that is replaced or written to is noticed.

python -m pytest tests/data/test_replaced_data.py
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import MakeRun
from tst_data import Dataset, Plan, load_run, open_dataset
from tst_data.dataset import shard_reader
from tst_data.dataset.folder import DatasetFolder
from tst_data.dataset.reader import read_windows
from tst_data.dataset.shard_table import PIECE_BYTES
from tst_data.dataset.writer import write_dataset
from tst_data.errors import DamagedDataError, UnavailableError
from tst_data.materialized.reader import open_materialized
from tst_data.materialized.writer import materialize

VOCABULARY = 5000
SHARD_TOKENS = 600_000
NUM_TOKENS = 1_500_000


def write(folder: Path, seed: int) -> Path:
    """A dataset of three shards, of two, two and one pieces. Datasets of all seeds have one layout."""
    documents = [np.random.default_rng(seed).integers(0, VOCABULARY - 1, NUM_TOKENS - 1)]
    write_dataset(
        folder, documents, vocabulary_size=VOCABULARY, end_of_text_id=VOCABULARY - 1, shard_tokens=SHARD_TOKENS,
        sample_tokens=1000,
    ).close()  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("originals")
    return write(folder / "one", 1), write(folder / "two", 2)


@pytest.fixture
def folder(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals[0], tmp_path / "dataset"))


@pytest.fixture
def other(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals[1], tmp_path / "other"))


@pytest.fixture
def tokens(originals: tuple[Path, Path]) -> NDArray[Any]:
    with open_dataset(originals[0]) as dataset:
        return dataset.read(0, dataset.num_tokens)


def replace(folder: Path, other: Path) -> None:
    """Put the other dataset in place of this one."""
    folder.rename(folder.with_name("away"))
    other.rename(folder)


def read_all(dataset: Dataset) -> NDArray[Any]:
    return dataset.read(0, dataset.num_tokens)


def nothing(dataset: Dataset) -> object:
    return None


def read_one_shard(dataset: Dataset) -> object:
    return dataset.read(0, 10)


@pytest.mark.parametrize("before", [nothing, read_one_shard, read_all])
def test_a_folder_replaced_under_an_open_dataset_gives_its_own_tokens(
    folder: Path, other: Path, tokens: NDArray[Any], before: Callable[[Dataset], object]
) -> None:
    with open_dataset(folder) as dataset:
        before(dataset)
        replace(folder, other)
        assert np.array_equal(read_all(dataset), tokens)
        assert len(dataset.documents(0, dataset.num_tokens)) == 1
        dataset.verify()


@pytest.mark.parametrize("before", [nothing, read_one_shard])
def test_a_folder_that_is_deleted_and_replaced_is_an_error(
    folder: Path, other: Path, before: Callable[[Dataset], object]
) -> None:
    with open_dataset(folder) as dataset:
        before(dataset)
        replace(folder, other)
        shutil.rmtree(folder.with_name("away"))
        with pytest.raises(DamagedDataError, match="is missing"):
            read_all(dataset)
        with pytest.raises(DamagedDataError, match="is missing"):
            dataset.documents(0, 1)


def test_a_closed_dataset_that_is_read_again_does_not_take_the_other_one(folder: Path, other: Path) -> None:
    dataset = open_dataset(folder)
    read_all(dataset)
    dataset.close()
    replace(folder, other)
    with pytest.raises(DamagedDataError, match=r"shard\.00000\.mds: piece 0 .* is not what was written"):
        read_all(dataset)
    dataset.close()
    unread = open_dataset(folder)
    unread.close()
    replace(folder, folder.with_name("away").rename(folder.with_name("back")))
    with pytest.raises(DamagedDataError, match=r"shards\.parquet: was changed since the dataset was opened"):
        read_all(unread)
    unread.close()


@pytest.mark.parametrize("in_place", [True, False])
def test_the_table_of_another_dataset_is_not_believed(folder: Path, other: Path, in_place: bool) -> None:
    with open_dataset(folder) as dataset:
        for name in ("shards.parquet", "shard.00000.mds"):
            if in_place:
                (folder / name).write_bytes((other / name).read_bytes())
            else:
                (other / name).replace(folder / name)
        with pytest.raises(DamagedDataError, match=r"shards\.parquet: was changed since the dataset was opened"):
            dataset.read(0, 10)


def test_a_plan_over_a_replaced_folder_gives_its_own_batches(folder: Path, other: Path, make_run: MakeRun) -> None:
    run = make_run(folder, batch_size=32, sequence_length=100)
    with Plan(load_run(run)) as plan:
        expected = [plan.read_batch(step).windows for step in range(plan.num_steps)]
    with Plan(load_run(run)) as plan:
        replace(folder, other)
        for step, windows in enumerate(expected):
            assert np.array_equal(plan.read_batch(step).windows, windows)


def test_a_replaced_materialized_run_gives_its_own_rows(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        with Plan(load_run(make_run(folder, seed=seed))) as plan:
            materialize(plan, tmp_path / f"run{seed}")
            runs.append(plan.read_batch(0).windows)
    with open_materialized(tmp_path / "run1") as run:
        replace(tmp_path / "run1", tmp_path / "run2")
        assert np.array_equal(run.read_batch(0).windows, runs[0])


def overwrite(path: Path, start: int, num_bytes: int, *, keep_time: bool = False) -> None:
    """Write other tokens of the same vocabulary over some of a shard's, in place."""
    status = path.stat()
    other = np.random.default_rng(9).integers(0, VOCABULARY - 1, num_bytes // 2).astype(np.uint16)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(other.tobytes())
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_shard_overwritten_in_place_after_its_first_use_is_noticed(folder: Path, keep_time: bool) -> None:
    with open_dataset(folder) as dataset:
        read_all(dataset)
        overwrite(folder / "shard.00000.mds", 300_000, 60_000, keep_time=keep_time)
        for _ in range(2):
            with pytest.raises(DamagedDataError, match=r"shard\.00000\.mds: piece 0 "):
                read_windows([dataset], np.zeros(64, np.int64), np.arange(64) * 4000, 1000)
            with pytest.raises(DamagedDataError, match=r"shard\.00000\.mds: piece 0 "):
                read_all(dataset)
        assert len(dataset.read(SHARD_TOKENS, 100_000)) == 100_000
    with open_dataset(folder) as again, pytest.raises(DamagedDataError, match=r"shard\.00000\.mds: piece 0 "):
        again.read(0, 10)


def test_what_was_verified_is_verified_again_when_a_map_comes_back(folder: Path) -> None:
    with open_dataset(folder, max_maps=1) as dataset:
        read_all(dataset)  # the map of shard 0 was released for that of shard 1, and that for shard 2
        overwrite(folder / "shard.00000.mds", 300_000, 60_000, keep_time=True)
        with pytest.raises(DamagedDataError, match=r"shard\.00000\.mds: piece 0 "):
            dataset.read(0, 10)


def test_a_file_restored_from_a_copy_is_used_without_opening_again(
    folder: Path, originals: tuple[Path, Path], tokens: NDArray[Any]
) -> None:
    shard = folder / "shard.00000.mds"
    with open_dataset(folder) as dataset:
        read_all(dataset)
        overwrite(shard, 300_000, 60_000)
        with pytest.raises(DamagedDataError):
            read_all(dataset)
        shutil.copy(originals[0] / shard.name, folder / "copy")
        (folder / "copy").replace(shard)
        assert np.array_equal(read_all(dataset), tokens)
        shard.write_bytes((originals[0] / shard.name).read_bytes())
        assert np.array_equal(read_all(dataset), tokens)


def test_a_materialized_shard_overwritten_in_place_is_noticed(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    with Plan(load_run(make_run(folder))) as plan:
        materialize(plan, tmp_path / "run")
    shard = next((tmp_path / "run").glob("*.mds"))
    with open_materialized(tmp_path / "run") as run:
        run.read_batch(0)
        overwrite(shard, shard.stat().st_size - 20, 8, keep_time=True)
        with pytest.raises(DamagedDataError, match="piece 0 "):
            run.read_batch(0)


@pytest.mark.parametrize("num_changes", [1, 2, 3])
def test_a_file_that_changes_during_the_copy_is_read_again(
    folder: Path, tokens: NDArray[Any], monkeypatch: pytest.MonkeyPatch, num_changes: int
) -> None:
    """The change comes after the pieces were verified and the tokens were copied: their bytes are of no use."""
    changes = 0
    unpatched = DatasetFolder.identity

    def identity(self: DatasetFolder, name: str) -> Any:
        nonlocal changes
        found = unpatched(self, name)
        if name == "shard.00000.mds" and len(verified) == 2 and changes < num_changes:
            changes += 1
            os.utime(folder / name)
            found = unpatched(self, name)
        return found

    verified: set[int] = set()
    read_piece = shard_reader.ShardFiles.read_piece

    def note_piece(self: Any, shard: int, piece: int, *rest: Any) -> Any:
        verified.add(piece)
        return read_piece(self, shard, piece, *rest)

    with open_dataset(folder) as dataset:
        monkeypatch.setattr(shard_reader.ShardFiles, "read_piece", note_piece)
        monkeypatch.setattr(DatasetFolder, "identity", identity)
        if num_changes < 3:
            assert np.array_equal(dataset.read(0, SHARD_TOKENS), tokens[:SHARD_TOKENS])
        else:
            with pytest.raises(UnavailableError, match=r"shard\.00000\.mds: was changed during each of 3 reads; do"):
                dataset.read(0, SHARD_TOKENS)
    assert changes == num_changes


def test_the_tokenizer_that_is_parsed_is_the_one_that_was_verified(
    tmp_path: Path, convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("some text")
    assert convert(tmp_path / "text.txt", tmp_path / "out").code == 0
    with open_dataset(tmp_path / "out") as dataset:
        read = DatasetFolder.read

        def read_and_replace(self: DatasetFolder, name: str) -> bytes:
            data = read(self, name)
            if name.startswith("tokenizer"):
                (tmp_path / "out" / name).write_text("not a tokenizer any longer")
            return data

        monkeypatch.setattr(DatasetFolder, "read", read_and_replace)
        assert dataset.tokenizer().decode(dataset.read(0, 4)) == "some"


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("place", ["first", "middle", "last", *range(-3, 3)])
def test_ids_outside_the_vocabulary_are_damage_with_their_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, place: str | int
) -> None:
    """A dataset whose hashes are right and whose ids are not: its writer did not check them.

    A number is the place counted from the first token that begins in the second piece of the second shard.
    """
    monkeypatch.setattr("tst_data.dataset.layout.DatasetLayout.checked", lambda self, tokens, **_: np.asarray(tokens))
    document = np.arange(2 * SHARD_TOKENS - 1) % 100

    def write_document(folder: Path) -> Dataset:
        return write_dataset(
            folder, [document], vocabulary_size=101, end_of_text_id=100, dtype=dtype, shard_tokens=SHARD_TOKENS,
            sample_tokens=1000,
        )  # fmt: skip

    with write_document(tmp_path / "good") as good:
        offset, size = int(good._table.token_offset[1]), good.dtype.itemsize
        assert np.array_equal(good.read(0, len(document)), document)
    second_piece = SHARD_TOKENS + -(-(PIECE_BYTES - offset) // size)
    places = {"first": 0, "middle": SHARD_TOKENS // 3, "last": len(document) - 1}
    at = places[place] if isinstance(place, str) else second_piece + place
    document[at] = 123
    message = f"dataset '.*': token {at} is 123, outside the vocabulary of 101 tokens; restore the folder"
    with write_document(tmp_path / "data") as dataset:
        with pytest.raises(DamagedDataError, match=message):
            dataset.read(at, 1)
        with pytest.raises(DamagedDataError, match=message):
            read_windows([dataset], np.zeros(1, np.int64), np.array([at]), 1)
        other_shard = SHARD_TOKENS if at < SHARD_TOKENS else 0
        assert np.array_equal(dataset.read(other_shard, 1000), document[other_shard : other_shard + 1000])


def test_a_dataset_that_is_dropped_gives_back_its_descriptors(folder: Path) -> None:
    def open_descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = open_descriptors()
    dataset = open_dataset(folder)
    read_all(dataset)
    assert open_descriptors() == before + dataset.num_shards + 1
    del dataset
    assert open_descriptors() == before


def test_a_dropped_dataset_is_no_cycle(folder: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        dataset = open_dataset(folder)
        read_all(dataset)
        del dataset
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def damage(folder: Path) -> None:
    overwrite(folder / "shard.00000.mds", 300_000, 60_000)
    (folder / "documents" / "shard.00000.parquet").write_bytes(b"")


def remove(folder: Path) -> None:
    damage(folder)
    shutil.rmtree(folder)


def move_away(folder: Path) -> None:
    damage(folder)
    folder.rename(folder.with_name("away"))


@pytest.mark.parametrize("take_away", [remove, move_away])
@pytest.mark.parametrize("before", [nothing, read_one_shard, read_all])
def test_a_folder_restored_from_a_copy_is_used_without_opening_again(
    folder: Path,
    originals: tuple[Path, Path],
    tokens: NDArray[Any],
    take_away: Callable[[Path], None],
    before: Callable[[Dataset], object],
) -> None:
    with open_dataset(folder) as dataset:
        before(dataset)
        take_away(folder)
        for use in (read_all, lambda dataset: dataset.documents(0, 1)):
            with pytest.raises(DamagedDataError):
                use(dataset)
        shutil.copytree(originals[0], folder)
        for _ in range(2):
            assert np.array_equal(read_all(dataset), tokens)
            assert len(dataset.documents(0, dataset.num_tokens)) == 1


def test_a_folder_that_is_restored_in_part_takes_nothing_away(
    folder: Path, originals: tuple[Path, Path], tokens: NDArray[Any]
) -> None:
    with open_dataset(folder) as dataset:
        move_away(folder)
        shutil.copytree(originals[0], folder)
        for shard in folder.glob("*.mds"):
            shard.unlink()
        for _ in range(2):
            with pytest.raises(DamagedDataError):
                read_all(dataset)
            assert np.array_equal(dataset.read(SHARD_TOKENS, 1000), tokens[SHARD_TOKENS : SHARD_TOKENS + 1000])


def test_a_damaged_folder_is_not_replaced_by_another_dataset(folder: Path, other: Path, tokens: NDArray[Any]) -> None:
    with open_dataset(folder) as dataset:
        move_away(folder)
        other.rename(folder)
        for _ in range(2):
            with pytest.raises(DamagedDataError, match=r"shard\.00000\.mds: piece 0 "):
                read_all(dataset)
            assert np.array_equal(dataset.read(SHARD_TOKENS, 1000), tokens[SHARD_TOKENS : SHARD_TOKENS + 1000])


def test_a_restored_materialized_run_is_used(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    with Plan(load_run(make_run(folder))) as plan:
        materialize(plan, tmp_path / "run")
        expected = plan.read_batch(0).windows
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with open_materialized(tmp_path / "run") as run:
        assert np.array_equal(run.read_batch(0).windows, expected)
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(DamagedDataError, match="is missing"):
            run.read_batch(0)
        (tmp_path / "copy").rename(tmp_path / "run")
        assert np.array_equal(run.read_batch(0).windows, expected)


def test_a_child_of_a_fork_reads_whatever_other_threads_did(folder: Path) -> None:
    with open_dataset(folder) as dataset, dataset._folder._lock:  # as another thread that is inside
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if len(dataset.documents(0, 1)) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
