"""The command `tst-train`. python -m pytest tests/trainer/test_train_cli.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.training import STEPS, SWITCH
from trainer_client.cli import app
from trainer_client.trainer.config import TrainConfig
from tst_data.command_line import run_app


def command_line(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run_app(app, [str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_command_line_trains_and_prints_the_report(
    run_file: Path, config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "train.json", tmp_path / "output"
    file.write_text(config.model_dump_json())
    assert command_line(run_file, "--config", file, "--output", output, "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report == json.loads((output / "report.json").read_text())
    assert report["steps"] == STEPS
    assert f"step {SWITCH}: bag size 4 -> 1" in captured.err
    assert command_line(run_file, "--config", file, "--output", output) == 0
    captured = capsys.readouterr()
    assert "held out loss" in captured.out
    assert f"resume at step {STEPS} of {STEPS}" in captured.err


def test_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(tmp_path / "missing.yaml") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "missing.yaml" in captured.err
    assert command_line("--help") == 0
    assert "Example: tst-train http://" in capsys.readouterr().out
