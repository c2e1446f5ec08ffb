"""Reading: the same tokens as `StreamingDataset` for every read, and never a damaged one.

python -m pytest tests/data/test_dataset_reader.py
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tst_data.dataset.map_cache import default_map_cache
from tst_data.dataset.reader import Dataset, open_dataset, read_windows
from tst_data.dataset.shard_reader import ShardFiles
from tst_data.dataset.writer import write_dataset
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError

MIB = 1 << 20


@pytest.fixture(scope="session")
def stream(tiny_documents: list[NDArray[Any]]) -> NDArray[Any]:
    """The token stream of `tiny_dataset`, made without it."""
    return np.concatenate([np.append(document, 255) for document in tiny_documents])


@pytest.fixture(scope="module")
def large_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 3 MiB of tokens, and a tail: four pieces each of the first two."""
    folder = tmp_path_factory.mktemp("large") / "dataset"
    random = np.random.default_rng(1)
    documents = [random.integers(0, 999, length) for length in (3 * MIB + 5000, 100)]
    write_dataset(folder, documents, vocabulary_size=1000, end_of_text_id=999, shard_tokens=3 * MIB // 2).close()
    return folder


@pytest.fixture
def folder(large_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(large_shards, tmp_path / "dataset"))


def gather(dataset: Dataset, first_tokens: Any, window_length: int) -> NDArray[Any]:
    first_tokens = np.asarray(first_tokens, np.int64)
    return read_windows([dataset], np.zeros(len(first_tokens), np.int64), first_tokens, window_length)


def change_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.needs_streaming
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_streaming_dataset_reads_the_same_tokens(tmp_path: Path, dtype: str) -> None:
    from tst_data.streaming_compat import import_streaming

    random = np.random.default_rng(2)
    high = 1 << (16 if dtype == "uint16" else 17)
    documents = [random.integers(0, high - 1, length) for length in (100, 0, 333, 50, 12)]
    dataset = write_dataset(
        tmp_path / "dataset",
        documents,
        vocabulary_size=high,
        end_of_text_id=high - 1,
        sample_tokens=16,
        shard_tokens=64,
    )
    assert dataset.dtype == dtype
    assert dataset.shard_tokens[-1] < 16
    streaming = import_streaming()
    oracle = streaming.StreamingDataset(local=str(dataset.path), shuffle=False, batch_size=1, validate_hash="xxh3_64")
    samples = [oracle[index]["tokens"] for index in range(len(oracle))]
    assert {len(sample) for sample in samples} == {16, int(dataset.shard_tokens[-1])}
    assert all(sample.dtype == dtype for sample in samples)
    assert np.array_equal(np.concatenate(samples), dataset.read(0, dataset.num_tokens))
    assert dataset.num_tokens == sum(len(document) + 1 for document in documents)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_read_is_that_part_of_the_stream(tiny_dataset: Dataset, stream: NDArray[Any], data: st.DataObject) -> None:
    first_token = data.draw(st.integers(0, len(stream)))
    num_tokens = data.draw(st.integers(0, len(stream) - first_token))
    tokens = tiny_dataset.read(first_token, num_tokens)
    assert tokens.dtype == tiny_dataset.dtype
    assert np.array_equal(tokens, stream[first_token : first_token + num_tokens])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_gathered_windows_equal_reads(tiny_dataset: Dataset, stream: NDArray[Any], data: st.DataObject) -> None:
    window_length = data.draw(st.integers(1, int(tiny_dataset.shard_tokens[-2])))
    fitting = np.flatnonzero(tiny_dataset.shard_tokens >= window_length)
    shards = data.draw(st.lists(st.sampled_from(fitting.tolist()), max_size=20))
    first_tokens = [
        int(tiny_dataset.shard_first_token[shard])
        + data.draw(st.integers(0, int(tiny_dataset.shard_tokens[shard]) - window_length))
        for shard in shards
    ]
    windows = gather(tiny_dataset, first_tokens, window_length)
    for first_token, window in zip(first_tokens, windows, strict=True):
        assert np.array_equal(window, stream[first_token : first_token + window_length])


def test_shards_follow_each_other_without_gaps(tiny_dataset: Dataset, stream: NDArray[Any]) -> None:
    assert tiny_dataset.num_tokens == len(stream) == tiny_dataset.shard_tokens.sum()
    ends = tiny_dataset.shard_first_token + tiny_dataset.shard_tokens
    assert np.array_equal(tiny_dataset.shard_first_token[1:], ends[:-1])
    assert len(tiny_dataset.shard_tokens) == tiny_dataset.num_shards


@pytest.mark.parametrize(("first_token", "num_tokens"), [(-1, 1), (0, -1), (0, 10**9), (10**9, 1), (2**63, 1)])
def test_reads_outside_the_stream_are_refused(tiny_dataset: Dataset, first_token: int, num_tokens: int) -> None:
    with pytest.raises(InvalidInputError, match=f"': has {tiny_dataset.num_tokens} tokens, but "):
        tiny_dataset.read(first_token, num_tokens)


@pytest.mark.parametrize("first_token", [-1, 4096 - 4, 10**9])
def test_windows_outside_a_shard_are_refused(tiny_dataset: Dataset, first_token: int) -> None:
    with pytest.raises(InvalidInputError, match=f"window of 5 tokens at {first_token} is not within one shard"):
        gather(tiny_dataset, [0, first_token], 5)


def test_a_damaged_piece_is_found_when_it_is_read_and_only_then(folder: Path, large_shards: Path) -> None:
    path = folder / "shard.00001.mds"
    change_byte(path, 2 * MIB + 5)
    with open_dataset(folder) as dataset, open_dataset(large_shards) as good:
        start = int(dataset.shard_first_token[1])
        first_two_pieces = MIB - 20_000
        assert np.array_equal(dataset.read(start, first_two_pieces), good.read(start, first_two_pieces))
        after = start + 3 * MIB // 2 - 500
        assert np.array_equal(dataset.read(after, 1000), good.read(after, 1000))
        for _ in range(3):
            with pytest.raises(DamagedDataError, match=r"shard\.00001\.mds: piece 2 \(bytes 2097152 to 3145727\)"):
                gather(dataset, [start, start + MIB + 10], 4097)
            with pytest.raises(DamagedDataError, match="piece 2 "):
                dataset.read(0, dataset.num_tokens)
        assert np.array_equal(dataset.read(start, first_two_pieces), good.read(start, first_two_pieces))


@pytest.mark.parametrize("at", [0, MIB - 1, MIB, 2 * MIB, -1])
def test_verify_finds_any_damaged_byte(folder: Path, at: int) -> None:
    path = folder / "shard.00000.mds"
    at %= path.stat().st_size
    change_byte(path, at)
    with open_dataset(folder) as dataset, pytest.raises(DamagedDataError, match=rf"00000\.mds: piece {at // MIB} "):
        dataset.verify()


def test_verify_reads_everything(large_shards: Path) -> None:
    with open_dataset(large_shards) as dataset:
        done: list[int] = []
        dataset.verify(done.append)
        files = [path.stat().st_size for path in large_shards.glob("*.mds")]
        assert sum(done) == dataset.num_bytes == sum(files)


@pytest.mark.parametrize("name", ["index.json", "shards.parquet"])
def test_verify_finds_a_changed_index(folder: Path, name: str) -> None:
    with open_dataset(folder) as dataset:
        change_byte(folder / name, 10)
        with pytest.raises(DamagedDataError, match=f"{name}: has hash"):
            dataset.verify()


def read_all(dataset: Dataset) -> Any:
    return dataset.read(0, dataset.num_tokens)


def gather_one(dataset: Dataset) -> Any:
    return gather(dataset, dataset.shard_first_token[1:2], 9)


@pytest.mark.parametrize("use", [read_all, gather_one, Dataset.verify])
def test_a_truncated_shard_is_named_with_both_sizes(folder: Path, use: Callable[[Dataset], Any]) -> None:
    path = folder / "shard.00001.mds"
    size = path.stat().st_size
    os.truncate(path, size - 100)
    with open_dataset(folder) as dataset:
        for _ in range(2):
            with pytest.raises(DamagedDataError, match=rf"00001\.mds: has {size - 100} bytes, expected {size}"):
                use(dataset)


def test_a_shard_truncated_while_open_is_an_error_and_no_crash(folder: Path) -> None:
    with open_dataset(folder) as dataset:
        read_all(dataset)
        os.truncate(folder / "shard.00001.mds", 4096)
        with pytest.raises(DamagedDataError, match=r"00001\.mds: has 4096 bytes"):
            read_all(dataset)


@pytest.mark.parametrize("use", [read_all, gather_one, Dataset.verify])
def test_a_missing_shard_is_named(folder: Path, use: Callable[[Dataset], Any]) -> None:
    (folder / "shard.00001.mds").unlink()
    with open_dataset(folder) as dataset:
        for _ in range(2):
            with pytest.raises(
                DamagedDataError, match=r"shard\.00001\.mds: is missing \(expected \d+ bytes\); restore it"
            ):
                use(dataset)
        assert len(dataset.read(0, 1000)) == 1000


@pytest.mark.usefixtures("files_are_old")
def test_verified_pieces_stay_verified_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = 0
    original = ShardFiles.read_piece

    def counted(*arguments: Any) -> memoryview:
        nonlocal hashed
        hashed += 1
        return original(*arguments)

    monkeypatch.setattr(ShardFiles, "read_piece", counted)
    with open_dataset(folder, max_maps=1) as dataset:
        read_all(dataset)
        everything = hashed
        assert everything == sum(-(-path.stat().st_size // MIB) for path in folder.glob("*.mds"))
        read_all(dataset)
        assert hashed == everything
        change_byte(folder / "shard.00000.mds", 100)
        os.utime(folder / "shard.00000.mds", ns=(1, 1))
        with pytest.raises(DamagedDataError, match="piece 0 "):
            read_all(dataset)


def test_one_map_serves_many_shards_and_threads(tiny_dataset: Dataset, stream: NDArray[Any]) -> None:
    failures: list[BaseException] = []
    with open_dataset(tiny_dataset.path, max_maps=1) as dataset:

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            try:
                for _ in range(60):
                    shards = random.integers(0, dataset.num_shards - 2, 16)
                    first_tokens = dataset.shard_first_token[shards] + random.integers(0, 4096 - 33, 16)
                    windows = gather(dataset, first_tokens, 33)
                    expected = stream[first_tokens[:, None] + np.arange(33)]
                    np.testing.assert_array_equal(windows, expected)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in threads)
        assert not failures
        assert len(dataset._files._cache) == 1


def test_maps_are_released_on_close_and_come_back(tiny_dataset: Dataset, stream: NDArray[Any]) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_descriptors()
    dataset = open_dataset(tiny_dataset.path)
    read_all(dataset)
    assert open_descriptors() == before + dataset.num_shards + 1  # one for each map, and the folder
    dataset.close()
    assert open_descriptors() == before
    assert np.array_equal(read_all(dataset), stream)
    dataset.close()


def test_all_datasets_of_a_process_share_one_bound(
    tiny_dataset: Dataset, large_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = default_map_cache()
    monkeypatch.setattr(cache, "limit", 2)
    with open_dataset(tiny_dataset.path) as one, open_dataset(large_shards) as two:
        for _ in range(2):
            read_all(one)
            read_all(two)
            assert len(cache) == 2


def test_a_dataset_without_a_tokenizer_says_so(tiny_dataset: Dataset) -> None:
    with pytest.raises(NotFoundError, match="holds no tokenizer"):
        tiny_dataset.tokenizer()


def test_real_text_comes_back(shared_data: Path, tmp_path: Path) -> None:
    text = np.frombuffer((shared_data / "shakespeare" / "input.txt").read_bytes(), np.uint8)
    documents = np.array_split(text, 1000)
    dataset = write_dataset(
        tmp_path / "dataset", documents, vocabulary_size=257, end_of_text_id=256, shard_tokens=1 << 16
    )
    tokens = read_all(dataset)
    assert np.array_equal(tokens[tokens != 256], text)
    for position in range(0, dataset.num_tokens, 99_991):
        (document,) = dataset.documents(position, 1)
        assert np.array_equal(dataset.read(document.first_token, document.length - 1), documents[document.row])
