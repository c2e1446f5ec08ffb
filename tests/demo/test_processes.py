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
from benchmarks.demo.settings import BASELINE, SHORT, TST

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 30.0


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def default_interrupt() -> None:
    """In a child before its command: SIGINT interrupts it, even where it is ignored here (`nohup make test &`)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_folder_that_holds_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refusal = r"': holds other files than a demo's; give another folder with --output$"
    with pytest.raises(DemoError, match=refusal), claimed(tmp_path, needed_bytes=1):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with (
        pytest.raises(DemoError, match=r"': is a file; give a folder with --output$"),
        claimed(tmp_path / "out", needed_bytes=1),
    ):
        pass


def test_a_disk_without_enough_room_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DemoError, match=r"': has room for .* MB, but the demo needs .* MB; make room, or give another"),
        claimed(tmp_path / "out", needed_bytes=1 << 60),
    ):
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
        with (
            pytest.raises(DemoError, match=r"': another demo uses it; wait for its end, or give another folder"),
            claimed(folder, needed_bytes=1),
        ):
            pass


def test_children_end_with_the_block_after_an_error_too(tmp_path: Path) -> None:
    pid = 0
    with contextlib.suppress(KeyboardInterrupt), Children(tmp_path) as children:
        child = children.start("server", "http.server", "--bind", "127.0.0.1", "0")
        pid = child.process.pid
        raise KeyboardInterrupt
    assert has_ended(pid)


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
    assert has_ended(child)


def test_a_child_that_fails_is_named_with_its_last_message(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("conversion", "tst_data.cli", "inspect", tmp_path / "nothing")
        child.process.wait(DEADLINE_SECONDS)
        with pytest.raises(
            DemoError, match=r"^conversion: ended with exit code 1: error: .*nothing.*; see '.*conversion.log'$"
        ):
            child.check()


TINY = dataclasses.replace(
    SHORT,
    steps=200,
    training_bytes=2_000_000,
    held_out_bytes=100_000,
    tokenizer_bytes=200_000,
    evaluations=20,
    evaluation_windows=16,
    final_windows=128,
    vocabulary_size=512,
)


@pytest.fixture(scope="module")
def tiny_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of both tiny demos: the second one uses the datasets of the first."""
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runs", [(TST,), (TST, BASELINE)], ids=["short", "long"])
def test_a_demo_of_few_steps(runs: tuple[str, ...], tiny_output: Path) -> None:
    settings = dataclasses.replace(TINY, runs=runs)
    with claimed(tiny_output, needed_bytes=1) as folder, Display() as display:
        results = run_demo(folder, settings, display)
    audit = results["audit"]
    assert audit["passed"]
    assert [run["run"] for run in audit["runs"]] == list(runs)
    for run in audit["runs"]:
        assert (run["lost"], run["repeated"], run["tokens_repeated"], run["windows"]) == (0, 0, 0, 3200)
    killed = audit["disturbance"]
    assert killed["resumed_at"] < results["switch"] < killed["trainer_killed_at"]
    assert audit["rerun"]["first_step"] < killed["server_killed_at"][TST]
    assert audit["rerun"]["num_steps"] >= killed["trainer_killed_at"] - killed["resumed_at"]
    assert results["parameters"] > 100_000
    if BASELINE in runs:
        assert results["comparison"]["paired"]["windows"] == 128
    else:
        assert results["comparison"] is None
    assert json.loads((folder / "results.json").read_text())["steps"] == 200
    assert "<svg" in (folder / "report.html").read_text()


def test_bad_options_end_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    command = [sys.executable, "-m", "benchmarks.demo", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, env=os.environ)
    assert done.returncode == 1
    assert done.stderr == f"error: '{tmp_path}': holds other files than a demo's; give another folder with --output\n"


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.demo", "--output", str(tmp_path / "out")]
    demo = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=default_interrupt
    )
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
            assert demo.stderr.read().endswith("demo: stopped; every process that it had started was ended\n")
            assert demo.wait(DEADLINE_SECONDS) == 130
        finally:
            demo.kill()
    assert all(has_ended(pid) for pid in started)
