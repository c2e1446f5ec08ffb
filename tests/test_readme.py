"""What the README shows works as it is written there. python -m pytest tests/test_readme.py"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import MakeRun
from trainer_client import BatchStream
from trainer_client.trainer.config import load_train_config
from tst_data.dataset.reader import Dataset
from tst_data.run.run_file import parse_run
from tst_data.streaming_compat import repair_torchvision

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


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
def test_the_loop_trains_and_its_state_resumes(
    make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repair_torchvision()
    run = make_run(tiny_dataset)
    program = block("python")
    changes = {
        '"http://host:8000/v1/runs/wiki-s4"': repr(str(run)),
        '"cuda"': '"cpu"',
        'for_model("llama", ': 'for_model("llama", hidden_size=16, num_hidden_layers=1, intermediate_size=16, '
        "num_attention_heads=1, num_key_value_heads=1, ",
        "% 1000 == 999": "== 2",
    }
    for shown, small in changes.items():
        assert shown in program
        program = program.replace(shown, small)
    names: dict[str, object] = {}
    exec(program, names)
    assert names["batch"].step == 4  # type: ignore[attr-defined]
    state = torch.load("checkpoint.pt", weights_only=True)
    with BatchStream(run) as stream:
        stream.load_state_dict(state["data"])
        assert [batch.step for batch in stream] == [3, 4]
    names["stream"].close()  # type: ignore[attr-defined]


def test_yaml_blocks_are_valid() -> None:
    for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL):
        assert isinstance(yaml.safe_load(text), dict)
