"""What the README shows works as it is written there. python -m pytest tests/test_readme.py"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import MakeRun
from trainer_client import BatchStream
from trainer_client.trainer.config import load_train_config
from tst_data.dataset.reader import Dataset
from tst_data.run.run_file import parse_run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str, beginning: str = "") -> str:
    """The README's code block of a language that begins so."""
    (found,) = re.findall(rf"```{language}\n({re.escape(beginning)}.*?)```", README, flags=re.DOTALL)
    return str(found)


def test_the_run_file_is_one() -> None:
    run = parse_run(block("yaml", "# wiki.yaml"), Path())
    assert [phase.bag_size for phase in run.specification.phases] == [4, 1]


def test_the_training_configuration_is_one(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(block("yaml", "# train.yaml"))
    config = load_train_config(tmp_path / "train.yaml")
    assert config.output == str(tmp_path / "out" / "wiki-s4")


@pytest.mark.slow
def test_the_loop_trains_in_a_new_process_and_its_state_resumes(
    make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """The process shows that the loop needs no other import, not even where torchvision does not match torch."""
    run = make_run(tiny_dataset)
    program = block("python")
    changes = {
        '"http://host:8000/v1/runs/wiki-s4"': repr(str(run)),
        '"cuda"': '"cpu"',
        "hidden_size=512": "hidden_size=16",
        "intermediate_size=1376": "intermediate_size=16",
        "num_hidden_layers=8": "num_hidden_layers=1",
        "num_attention_heads=8": "num_attention_heads=1",
        "% 1000 == 999": "== 2",
    }
    for shown, small in changes.items():
        assert shown in program
        program = program.replace(shown, small)
    command = [sys.executable, "-W", "error", "-c", f"{program}\nassert batch.step == 4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=120)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    with BatchStream(run) as stream:
        stream.load_state_dict(state["data"])
        assert [batch.step for batch in stream] == [3, 4]


def test_yaml_blocks_are_valid() -> None:
    for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL):
        assert isinstance(yaml.safe_load(text), dict)
