"""`kill -9` of a conversion at ten random moments: in the end every file is the same as without a kill.

The conversions are real processes that run the real command line, forked so that the kills hit the conversion and not
its imports.
"""

from __future__ import annotations

import gzip
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.conversion import hashes_of
from tests.support.forked import Child, Forkserver, forkserver

pytestmark = pytest.mark.slow

KILLS = 10
OPTIONS = ["--tokenizer", "train:400", "--validation", "10%", "--shard-tokens", "4096"]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forkserver]:
    with forkserver("tests.support.entries", "tst_data.streaming_compat:import_streaming") as server:
        yield server


def write_corpus(folder: Path) -> None:
    """About half a MB in files of three formats, with a document that is longer than a shard."""
    folder.mkdir()
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(1, 9))) for _ in range(2000)]

    def text(length: int) -> str:
        return " ".join(chance.choices(words, k=length))

    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": text(chance.randint(0, 200))}) + "\n" for _ in range(500))
    )
    for number in range(20):
        (folder / f"b{number:02}.txt").write_text(text(100))
    (folder / "c.txt").write_text(text(12_000))
    with gzip.open(folder / "d.csv.gz", "wt", newline="") as file:
        file.write("text\n" + "".join(f'"{text(150)}"\n' for _ in range(120)))


def num_shards_written(staging: Path) -> int:
    """Shards that the running conversion has written, in both datasets together."""
    return len(list(staging.glob("*/*.mds")))


@pytest.mark.slow
def test_a_conversion_killed_at_ten_random_moments_ends_bit_identical(tmp_path: Path, forks: Forkserver) -> None:
    """Two kills at any time from the start, six between shards, two while the end is being written."""
    corpus, whole, out = tmp_path / "corpus", tmp_path / "whole", tmp_path / "out"
    staging = tmp_path / ".out.converting"
    write_corpus(corpus)
    undisturbed = forks.tst_data("convert", corpus, *OPTIONS, "--workers", 2, "--out", whole).wait()
    assert undisturbed.code == 0, undisturbed.errors
    expected = [hashes_of(whole), hashes_of(tmp_path / "whole-validation")]
    names = {path.name for path in tmp_path.iterdir()}
    num_shards = sum(name.endswith(".mds") for files in expected for name in files)
    assert num_shards > 40

    chance = random.Random(20260511)
    targets = [0, 0, *sorted(chance.sample(range(1, num_shards - 4), KILLS - 4)), num_shards - 1, num_shards]
    assert len(targets) == KILLS

    def start() -> Child:
        return forks.tst_data("convert", corpus, *OPTIONS, "--workers", chance.randint(1, 3), "--out", out)

    codes: list[int] = []
    for target in targets:
        begun = time.monotonic()
        child = start()
        while num_shards_written(staging) < target and not (out / "manifest.json").exists():
            assert time.monotonic() < begun + 120
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03 if target else 0.5))
        child.kill()
        codes.append(child.wait().code)
    assert set(codes) <= {0, -signal.SIGKILL}
    assert codes[:-2] == [-signal.SIGKILL] * (KILLS - 2)  # the last two may come when all is done
    assert start().wait().code == 0
    assert [hashes_of(out), hashes_of(tmp_path / "out-validation")] == expected
    assert {path.name for path in tmp_path.iterdir()} == {*names, "out", "out-validation"}
