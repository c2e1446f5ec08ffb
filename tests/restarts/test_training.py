"""The trainer's promises with real processes: killed, stopped, distributed, and with a server that dies.

python -m pytest tests/restarts/test_training.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import MakeRun
from tests.support.serving import running
from tests.support.training import MODEL
from trainer_client.trainer.metrics_log import read_metrics

pytestmark = pytest.mark.slow

LEGS = Path(__file__).resolve().parents[1] / "support" / "train_legs.py"
TIMES = {"seconds", "tokens_per_second", "data_wait_share"}
SWITCH, STEPS = 20, 40

CONFIG: dict[str, Any] = {
    "model": {**MODEL, "attention_dropout": 0.1},  # so that random states matter
    "seed": 3,
    "micro_batches": 2,
    "learning_rate": 0.003,
    "log_every": 1,
    "threads": 1,
    "device": "cpu",
    "checkpoint": {"every": 7, "keep": 2},
}


@pytest.fixture
def write_config(tmp_path: Path, tiny_dataset: Any) -> Callable[..., Path]:
    def write(name: str = "train", **changes: Any) -> Path:
        evaluation = {"dataset": str(tiny_dataset.path), "every": 8, "windows": 12}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**CONFIG, "evaluation": evaluation, **changes}))
        return path

    return write


@pytest.fixture
def run_file(make_run: MakeRun, tiny_dataset: Any) -> Path:
    phases = [{"bag_size": 4, "steps": SWITCH}, {"bag_size": 1, "steps": STEPS - SWITCH}]
    return make_run(tiny_dataset, phases=phases, batch_size=8)


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}


@contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a new process group. At the end the whole group is killed."""
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        **options,
    )
    try:
        yield started
    finally:
        kill_group(started)
        started.communicate()


def kill_group(started: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait(timeout=30)


def finish(started: subprocess.Popen[str], seconds: float = 180) -> str:
    stdout, stderr = started.communicate(timeout=seconds)
    assert started.returncode == 0, stderr
    return stdout


def take_legs(folder: Path, legs: list[dict[str, Any]]) -> list[int]:
    path = folder / "legs.json"
    path.write_text(json.dumps(legs, default=str))
    with process(sys.executable, str(LEGS), str(path)) as started:
        codes: list[int] = json.loads(finish(started))
    return codes


def weights(output: Path) -> bytes:
    return (output / "model" / "model.safetensors").read_bytes()


def measured(output: Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock and on restarts."""
    return [
        {key: value for key, value in record.items() if key not in TIMES}
        for record in read_metrics(output / "metrics.jsonl")
        if record["event"] not in ("start", "resume")
    ]


def digests(output: Path) -> list[str]:
    found: list[str] = json.loads((output / "report.json").read_text())["digests"]
    return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


def test_trainer_killed_in_each_phase_at_the_switch_and_in_a_checkpoint_ends_with_the_same_bits(
    tmp_path: Path, run_file: Path, write_config: Callable[..., Path]
) -> None:
    common = {"source": run_file, "config": write_config()}
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    codes = take_legs(
        tmp_path,
        [
            {**common, "output": undisturbed},
            {**common, "output": killed, "kill_before_step": 3},  # before there is any checkpoint
            {**common, "output": killed, "kill_before_step": 11},  # in the superposition phase
            {**common, "output": killed, "kill_before_step": SWITCH},
            {**common, "output": killed, "kill_in_checkpoint": 28},
            {**common, "output": killed, "kill_before_step": 33},  # in the recovery phase
            {**common, "output": killed},
        ],
    )
    assert codes == [0, -9, -9, -9, -9, -9, 0]
    assert weights(killed) == weights(undisturbed)
    assert measured(killed) == measured(undisturbed)
    assert digests(killed) == digests(undisturbed)
    resumed = [record["step"] for record in read_metrics(killed / "metrics.jsonl") if record["event"] == "resume"]
    assert resumed == [7, 14, 21, 28]
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["step-00000035", "step-00000040"]


def test_server_killed_in_mid_run_and_restarted_changes_no_loss(
    tmp_path: Path, run_file: Path, write_config: Callable[..., Path]
) -> None:
    config = write_config(timeout_seconds=90)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    legs = tmp_path / "legs.json"
    with running(run_file) as first:
        legs.write_text(
            json.dumps(
                [
                    {"source": str(run_file), "config": str(config), "output": str(undisturbed)},
                    {"source": first.run_url, "config": str(config), "output": str(disturbed), "pause_before_step": 13},
                ]
            )
        )
        with process(sys.executable, str(LEGS), str(legs)) as trainer:
            wait_for(lambda: (disturbed / "waiting").exists() or trainer.poll() is not None, "step 13")
            first.kill()
            (disturbed / "go").touch()
            wait_for(  # what was fetched ahead is used up: the trainer waits for a server that is not there
                lambda: any(record["step"] >= 13 for record in measured(disturbed)), "a step without a server"
            )
            assert trainer.poll() is None, trainer.communicate()
            with running(run_file, "--port", first.port):
                codes = json.loads(finish(trainer))
    assert codes == [0, 0]
    assert measured(disturbed) == measured(undisturbed)
    assert weights(disturbed) == weights(undisturbed)
    assert digests(disturbed) == digests(undisturbed)


def test_two_processes_train_what_one_does_and_one_resumes_what_two_began(
    tmp_path: Path, run_file: Path, write_config: Callable[..., Path]
) -> None:
    model = {**CONFIG["model"], "attention_dropout": 0.0}  # each rank would drop other values
    two = write_config("two", model=model, micro_batches=2, checkpoint={"every": 7, "keep": 9})
    outputs = {name: tmp_path / name for name in ("alone", "together", "resumed")}
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "trainer_client.cli",
    )
    with process(
        sys.executable, *torchrun, str(run_file), "--config", str(two), "--output", str(outputs["together"]), "--json"
    ) as started:
        report = json.loads(finish(started))
    assert report["steps"] == STEPS
    assert len(set(report["digests"])) == 2, "each rank reads its own share"
    checkpoints = outputs["together"] / "checkpoints"
    shutil.copytree(checkpoints / "step-00000014", outputs["resumed"] / "checkpoints" / "step-00000014")
    codes = take_legs(
        tmp_path, [{"source": run_file, "config": two, "output": outputs[name]} for name in ("alone", "resumed")]
    )
    assert codes == [0, 0]
    expected = load_file(outputs["alone"] / "model" / "model.safetensors")
    for name in ("together", "resumed"):
        torch.testing.assert_close(
            load_file(outputs[name] / "model" / "model.safetensors"), expected, rtol=1e-3, atol=1e-5
        )
        for record, want in zip(
            steps(outputs[name]), steps(outputs["alone"])[-len(steps(outputs[name])) :], strict=True
        ):
            assert record == pytest.approx(want, rel=1e-4)
    assert [record["step"] for record in steps(outputs["resumed"])] == list(range(14, STEPS))


def steps(output: Path) -> list[dict[str, float]]:
    """Step, losses and counters of each step."""
    wanted = ("step", "bag_loss", "next_token_loss", "raw_tokens", "latent_positions", "learning_rate")
    return [
        {key: record[key] for key in wanted if key in record}
        for record in measured(output)
        if record["event"] == "step"
    ]


def test_terminated_trainer_saves_a_checkpoint_of_the_last_step_it_took(
    tmp_path: Path, make_run: MakeRun, tiny_dataset: Any, write_config: Callable[..., Path]
) -> None:
    run = make_run(tiny_dataset, phases=[{"bag_size": 1, "steps": 100_000}])
    output = tmp_path / "output"
    config = write_config(checkpoint={"every": 90_000}, evaluation=None)
    command = (
        sys.executable,
        "-m",
        "trainer_client.cli",
        str(run),
        "--config",
        str(config),
        "--output",
        str(output),
    )
    with process(*command, "--output", str(output)) as started:
        wait_for(lambda: len(measured(output)) > 3, "some steps")
        started.send_signal(signal.SIGTERM)
        _, stderr = started.communicate(timeout=60)
    assert started.returncode == 143
    assert "run the same command to resume" in stderr
    assert "Traceback" not in stderr
    (checkpoint,) = (output / "checkpoints").iterdir()
    next_step = json.loads((checkpoint / "checkpoint.json").read_text())["stream"]["next_step"]
    assert [record["step"] for record in steps(output)] == list(range(next_step))
