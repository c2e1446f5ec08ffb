"""Worker processes: they say why they cannot encode, end with their parent, import nothing from the current folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest

from tst_data.conversion.encode_worker import write_frame
from tst_data.conversion.local_engine import EncodingPool
from tst_data.errors import TSTError
from tst_data.tokenizer.byte_tokenizer import ByteTokenizer


@dataclass
class Batch:
    texts: list[bytes]

    def place(self, text: int) -> str:
        return f"text {text}"


def test_a_worker_that_cannot_load_its_tokenizer_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        EncodingPool(tmp_path, "uint16", 1) as pool,
        pytest.raises(TSTError, match=r"encoding process: cannot encode \(.*holds no tokenizer.*\); correct that"),
    ):
        list(pool.encode(Batch([b"x" * 1000] * 1000) for _ in range(10)))
    assert capfd.readouterr().err == ""


def test_a_worker_imports_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ByteTokenizer().save(tmp_path)
    for name in ("numpy", "tokenizers", "tst_data"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is another module')")
    monkeypatch.chdir(tmp_path)
    with EncodingPool(tmp_path, "uint16", 1) as pool:
        ((_, encoded),) = pool.encode([Batch([b"ab"])])
    assert [text.tokens.tolist() for text in encoded] == [[97, 98, 256]]


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
        write_frame(cast("BinaryIO", worker.stdin), np.array([[1]]), b"x")
        errors = worker.stderr.read()  # with stdin still open
        assert worker.wait() == 1
    assert b"all of it" in errors
    assert b"Fatal" not in errors


def test_a_worker_that_dies_is_reported_and_workers_end_with_the_pool(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    with EncodingPool(tmp_path, "uint16", 2) as pool:
        results = pool.encode(Batch([b"x" * 1000] * 10) for _ in range(100))
        _, first = next(results)
        assert [len(text.tokens) for text in first] == [1001] * 10
        os.kill(pool._workers[1].pid, signal.SIGKILL)
        with pytest.raises(TSTError, match=r"encoding process: was killed by signal 9, .* to resume"):
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
