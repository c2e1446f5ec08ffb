"""The commands in the README of each example work as shown. python -m pytest tests/test_examples.py"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
TIMEOUT_SECONDS = 240
PROGRAMS = {
    "python": [sys.executable],
    "tst-data": [sys.executable, "-m", "tst_data.cli"],
    "tst-train": [sys.executable, "-m", "trainer_client.cli"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like the root of the repository, whose examples have not run yet."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("output", "__pycache__"))
    shutil.copytree(ROOT / "tst_data", tmp_path / "tst_data", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def commands(example: str) -> list[list[str]]:
    """The commands in the README's only code block."""
    (block,) = re.findall(r"```\n(.*?)```", (EXAMPLES / example / "README.md").read_text(), flags=re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    return [[*PROGRAMS[program], *arguments] for program, *arguments in lines]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(command: list[str], checkout: Path) -> str:
    """Run a command that must end with exit code 0 -> its standard output."""
    done = subprocess.run(
        command, cwd=checkout, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(output: str) -> list[float]:
    return [float(line.rpartition(" ")[2]) for line in output.splitlines() if line.startswith("step ")]


def test_each_folder_is_listed_and_tested() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert set(re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text())) == folders
    assert folders == {"materialized", "own_loop"}


@pytest.mark.slow
def test_own_loop_trains_and_continues_after_a_kill(checkout: Path) -> None:
    convert, train = commands("own_loop")
    run(convert, checkout)
    with subprocess.Popen(train, cwd=checkout, env=environment(), stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line.startswith("step 80/"):
                killed.kill()
    output = run(train, checkout)
    assert output.startswith("resume at step 50 of 200\nstep 60/200: bag loss ")
    assert "step 80/200: next-token loss " in output
    assert losses(output)[-1] < 5.2  # log 512 = 6.2 at the beginning; the text is the code, which changes
    assert (checkout / "examples/own_loop/output/model/model.safetensors").is_file()


@pytest.mark.slow
def test_materialized_batches_train_without_a_server(checkout: Path) -> None:
    convert, materialize, own_model, tst_train = commands("materialized")
    run(convert, checkout)
    run(materialize, checkout)
    shutil.rmtree(checkout / "examples/materialized/output/data")  # training reads only what was materialized
    found = losses(run(own_model, checkout))
    assert len(found) == 10
    assert found[-1] < found[3] < 6.3  # after the last step, after the switch, and at the beginning (log 512 = 6.2)
    run(tst_train, checkout)
    assert (checkout / "examples/materialized/output/training/model/model.safetensors").is_file()
