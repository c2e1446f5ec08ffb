"""The demo's folder and processes, and the demo itself, tiny. python -m pytest tests/demo/test_processes.py"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.demo.__main__ import run_demo
from benchmarks.demo.display import Display
from benchmarks.demo.folder import MARKER, claimed
from benchmarks.demo.processes import ROOT, Children, DemoError
from benchmarks.demo.settings import QUICK

DEADLINE_SECONDS = 30.0


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_a_folder_that_holds_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoError, match="holds something else"), claimed(tmp_path, needed_bytes=1):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(DemoError, match="is a file"), claimed(tmp_path / "out", needed_bytes=1):
        pass


def test_no_room_is_said(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="make room"), claimed(tmp_path / "out", needed_bytes=1 << 60):
        pass


def test_a_second_demo_begins_clean_and_keeps_the_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with claimed(folder, needed_bytes=1):
        (folder / "data").mkdir()
        (folder / "data" / "kept").write_text("x")
        (folder / "tst").mkdir()
        (folder / "report.html").write_text("x")
    with claimed(folder, needed_bytes=1):
        assert {entry.name for entry in folder.iterdir()} == {MARKER, "data", "logs"}
        assert (folder / "data" / "kept").exists()
        with pytest.raises(DemoError, match="another demo"), claimed(folder, needed_bytes=1):
            pass


def test_children_end_with_the_block_whatever_the_reason(tmp_path: Path) -> None:
    pid = 0
    with contextlib.suppress(KeyboardInterrupt), Children(tmp_path) as children:
        child = children.start("server", "http.server", "--bind", "127.0.0.1", "0")
        pid = child.process.pid
        raise KeyboardInterrupt
    assert gone(pid)


def test_children_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from benchmarks.demo.processes import Children\n"
        "children = Children(pathlib.Path(sys.argv[1]))\n"
        "print(children.start('server', 'http.server', '--bind', '127.0.0.1', '0').process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    demo = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with demo:
        try:
            assert demo.stdout is not None
            child = int(demo.stdout.readline())
            assert is_running(child)
        finally:
            demo.kill()
    assert gone(child)


def test_a_child_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("conversion", "tst_data.cli", "inspect", tmp_path / "nothing")
        child.process.wait(DEADLINE_SECONDS)
        with pytest.raises(DemoError, match=r"conversion ended with exit code 1: error: .*nothing"):
            child.check()


@pytest.mark.slow
def test_the_whole_demo_on_a_little_text(tmp_path: Path) -> None:
    settings = dataclasses.replace(
        QUICK,
        training_bytes=2_000_000,
        held_out_bytes=100_000,
        tokenizer_bytes=200_000,
        max_steps=200,
        calibration_seconds=0.1,
        evaluation_windows=16,
        final_windows=128,
        vocabulary_size=512,
    )
    with claimed(tmp_path / "out", needed_bytes=1) as folder, Display() as display:
        results = run_demo(folder, settings, display)
    audit = results["audit"]
    assert audit["passed"]
    assert [(run["lost"], run["repeated"], run["tokens_repeated"]) for run in audit["runs"]] == [(0, 0, 0), (0, 0, 0)]
    assert [run["windows"] for run in audit["runs"]] == [3200, 3200]
    killed = audit["disturbance"]
    assert killed["resumed_at"] < results["switch"] < killed["trainer_killed_at"]
    assert audit["stretch"]["first_step"] < killed["server_killed_at"]["tst"]
    assert audit["stretch"]["num_steps"] >= killed["trainer_killed_at"] - killed["resumed_at"]
    assert results["paired"]["windows"] == 128
    assert json.loads((folder / "results.json").read_text())["steps"] == 200
    assert "<svg" in (folder / "report.html").read_text()


def test_bad_options_end_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    command = [sys.executable, "-m", "benchmarks.demo", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, env=os.environ)
    assert done.returncode == 1
    assert done.stderr == f"error: '{tmp_path}' holds something else than a demo; give another folder with --output\n"


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.demo", "--quick", "--output", str(tmp_path / "out")]
    demo = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with demo:
        try:
            assert demo.stderr is not None
            children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not children.read_text().split() and time.monotonic() < deadline:
                time.sleep(0.02)
            started = [int(pid) for pid in children.read_text().split()]
            assert started
            demo.send_signal(signal.SIGINT)
            assert demo.stderr.read().endswith("stopped; every process that the demo had started was ended\n")
            assert demo.wait(DEADLINE_SECONDS) == 130
        finally:
            demo.kill()
    assert all(gone(pid) for pid in started)
