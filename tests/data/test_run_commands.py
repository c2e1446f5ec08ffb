"""`tst-data plan`, `preview` and `materialize` as a user runs them. python -m pytest tests/data/test_run_commands.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import MakeRun
from tst_data.cli import app
from tst_data.command_line import run_app
from tst_data.dataset.reader import Dataset

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        run_app(app, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def refused(capsys: Capture, *arguments: str | Path) -> str:
    """The one line on stderr of a command that must fail and print nothing else."""
    code, out, err = run(capsys, *arguments)
    assert code != 0
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_plan_prints_what_a_run_needs(
    capsys: Capture, make_run: MakeRun, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = run(capsys, "plan", make_run(tiny_dataset))
    assert (code, err) == (0, "")
    assert "5 steps, 704 raw tokens, 320 latent positions" in out
    assert str(tiny_dataset.path) in out


def test_plan_as_json_and_its_warnings(capsys: Capture, make_run: MakeRun, tiny_dataset: Dataset) -> None:
    path = make_run(tiny_dataset, phases=[{"bag_size": 4, "steps": 600}])
    code, out, err = run(capsys, "plan", path, "--json", "--step-seconds", "0.5")
    report = json.loads(out)
    assert code == 0
    assert report["phases"][0]["tokens_per_second"] == 4 * 16 * 4 / 0.5
    assert report["phases"][0]["datasets"][0]["last_epoch"] > 2
    assert "data is repeated" in report["warnings"][0]
    assert err == f"warning: {report['warnings'][0]}\n"


def test_materialize_then_again(capsys: Capture, make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path) -> None:
    path = make_run(tiny_dataset)
    code, out, _ = run(capsys, "materialize", path, "--out", tmp_path / "out", "--json")
    first = json.loads(out)
    assert (code, first["written"], first["sequences"]) == (0, True, 20)
    code, out, err = run(capsys, "materialize", path, "--out", tmp_path / "out")
    assert (code, out) == (0, "")
    assert "already holds this run" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "absent.yaml"], "'absent.yaml': does not exist"),
        (["plan", "{run}", "--step-seconds", "0"], "--step-seconds 0.0: expected a number above 0; give"),
        (["plan", "{run}", "--step-seconds", "fast"], "Invalid value for '--step-seconds'"),
        (["plan"], "Missing argument 'RUN'"),
        (["plan", "{run}", "--wrong"], "No such option"),
        (["preview", "{run}", "--step", "99"], ": has no step 99; choose 0 to 4"),
        (["preview", "{run}", "--step", "-1"], "has no step -1"),
        (["preview", "{run}", "--sequence", "4"], ": step 0 has no sequence 4; choose 0 to 3"),
        (["preview", "{run}", "--bags", "0"], "--bags 0: expected at least 1; give"),
        (
            ["materialize", "{run}", "--out", "{here}"],
            "already holds something else; choose another --out, or move it away",
        ),
        (["materialize", "{run}", "--out", "s3://bucket/x"], "--out s3://bucket/x: expected a folder on this machine"),
        (["materialize", "{run}", "--out", "{run}/x"], "/x: cannot be written: {run} is not a folder"),
        (["materialize", "{run}"], "Missing option '--out'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_refusals(
    capsys: Capture, make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path, arguments: list[str], message: str
) -> None:
    path = make_run(tiny_dataset)
    given = [argument.format(run=path, here=tmp_path) for argument in arguments]
    assert message.format(run=path) in refused(capsys, *given)


@pytest.mark.parametrize("command", ["plan", "preview", "materialize", "convert", "inspect", "verify"])
def test_help_has_an_example(capsys: Capture, command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"tst-data {command} " in out
