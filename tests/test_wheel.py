"""The built wheel holds all that the three commands need, outside the checkout. python -m pytest tests/test_wheel.py"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tst_data", "service", "trainer_client")
RUN = """\
name: from-wheel
datasets: [{path: dataset}]
sequence_length: 8
batch_size: 4
phases: [{bag_size: 4, steps: 6}, {bag_size: 1, steps: 6}]
"""
TRAINING = """\
model: {model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 1}
device: cpu
threads: 1
output: trained
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that has the wheel, and this one's libraries but not its project."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=environment)
    (site_packages,) = environment.glob("lib/*/site-packages")
    (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def run(*command: Any, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_source_file_is_in_the_wheel(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = run("git", "ls-files", *PACKAGES, cwd=ROOT).split()
    assert packed == set(tracked)


def test_from_documents_to_a_trained_model(commands: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(f"Line {number} of the text." for number in range(400)))
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "train.yaml").write_text(TRAINING)
    run(commands / "tst-data", "convert", "text.txt", "--tokenizer", "bytes", "--out", "dataset", cwd=tmp_path)
    module = run(commands / "python", "-c", "import tst_data; print(tst_data.__file__)", cwd=tmp_path)
    assert module.startswith(str(commands.parent))
    server = subprocess.Popen(
        [commands / "tst-serve", "run.yaml", "--port", "0", "--json"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        with urllib.request.urlopen(ready["url"]) as page:
            assert b"<html" in page.read()
        url = ready["runs"][0]["url"]
        report = json.loads(run(commands / "tst-train", url, "--config", "train.yaml", "--json", cwd=tmp_path))
    finally:
        server.terminate()
        server.communicate()
    assert report["steps"] == 12
    assert (tmp_path / "trained" / "model" / "model.safetensors").is_file()
