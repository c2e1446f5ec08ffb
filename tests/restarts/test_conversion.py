"""`kill -9` of a conversion at ten random moments: in the end every file is the same as without a kill.

The conversions are real processes that run the real command line. They are forked from a process that has imported
everything (which takes seconds for `streaming`), so that the kills hit the conversion and not its imports.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.conversion import hashes_of

pytestmark = pytest.mark.slow

KILLS = 10
OPTIONS = ["--tokenizer", "train:400", "--validation", "10%", "--shard-tokens", "4096"]

LAUNCHER = """
import json, os, sys
from tst_data.cli import app
from tst_data.command_line import run_app
from tst_data.streaming_compat import import_streaming

import_streaming()
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.close(0)
        os.dup2(2, 1)
        run_app(app, json.loads(line))
    print(child, flush=True)
    sys.stdin.readline()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Launcher:
    """Starts conversions, one after another."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert self._line() == "ready"

    def convert(self, arguments: list[str], kill_when: Callable[[], None] | None = None) -> int:
        """The exit code of `tst-data convert`, negative where it was killed. It is killed when `kill_when` returns."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(["convert", *arguments]) + "\n")
        self._process.stdin.flush()
        child = int(self._line())
        if kill_when is not None:
            kill_when()
            os.kill(child, signal.SIGKILL)  # a child that has ended by itself is not reaped before the next line
        self._process.stdin.write("reap\n")
        self._process.stdin.flush()
        return int(self._line())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    started = Launcher()
    yield started
    started.close()


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
def test_a_conversion_killed_at_ten_random_moments_ends_bit_identical(tmp_path: Path, launcher: Launcher) -> None:
    """Two kills at any time from the start, six between shards, two while the end is being written."""
    corpus, whole, out = tmp_path / "corpus", tmp_path / "whole", tmp_path / "out"
    staging = tmp_path / ".out.converting"
    write_corpus(corpus)
    assert launcher.convert([str(corpus), *OPTIONS, "--workers", "2", "--out", str(whole)]) == 0
    expected = [hashes_of(whole), hashes_of(tmp_path / "whole-validation")]
    names = {path.name for path in tmp_path.iterdir()}
    num_shards = sum(name.endswith(".mds") for files in expected for name in files)
    assert num_shards > 40

    chance = random.Random(20260511)
    targets = [0, 0, *sorted(chance.sample(range(1, num_shards - 4), KILLS - 4)), num_shards - 1, num_shards]
    assert len(targets) == KILLS

    def arguments() -> list[str]:
        return [str(corpus), *OPTIONS, "--workers", str(chance.randint(1, 3)), "--out", str(out)]

    codes: list[int] = []
    for target in targets:
        begun = time.monotonic()

        def moment(target: int = target, begun: float = begun) -> None:
            while num_shards_written(staging) < target and not (out / "manifest.json").exists():
                assert time.monotonic() < begun + 120
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.03 if target else 0.5))

        codes.append(launcher.convert(arguments(), moment))
    assert set(codes) <= {0, -signal.SIGKILL}
    assert codes[:-2] == [-signal.SIGKILL] * (KILLS - 2)  # the last two may come when all is done
    assert launcher.convert(arguments()) == 0
    assert [hashes_of(out), hashes_of(tmp_path / "out-validation")] == expected
    assert {path.name for path in tmp_path.iterdir()} == {*names, "out", "out-validation"}
