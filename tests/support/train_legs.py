"""Runs the legs of a training, each in its own process, and kills them where the test says.

`python train_legs.py LEGS.json` runs a list of legs one after another. Each is a forked child that runs the trainer and
may kill itself with SIGKILL. Forking from a process that has imported everything saves the imports of each child. On
stdout: one line with the list of exit codes (-9: killed).

A leg has source, config and output, and may have one of
    kill_before_step     dies just before it takes this step
    kill_in_checkpoint   dies when this checkpoint is written but not renamed yet
    pause_before_step    makes the file `waiting` in the output folder and waits there for the file `go`
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers

from trainer_client.cli import app
from trainer_client.trainer import checkpoint
from trainer_client.trainer.config import load_train_config
from trainer_client.trainer.loop import Trainer
from trainer_client.trainer.process_group import join_process_group
from trainer_client.trainer.signals import StopRequest
from tst_data.command_line import run_app

transformers.LlamaForCausalLM  # noqa: B018  (imported before forking)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange(leg: dict[str, Any]) -> None:
    """Make the trainer die or wait where the leg says."""
    output = Path(leg["output"])
    take, replace_folder = Trainer._take, checkpoint.replace_folder

    def disturbed_take(self: Trainer, step: int, stop: StopRequest) -> None:
        if step == leg.get("kill_before_step"):
            die()
        if step == leg.get("pause_before_step"):
            (output / "waiting").touch()
            deadline = time.monotonic() + 60
            while not (output / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        take(self, step, stop)

    def disturbed_replace(staging: Path, target: Path) -> None:
        if target.name == f"step-{leg.get('kill_in_checkpoint', -1):08d}":
            die()
        replace_folder(staging, target)

    Trainer._take = disturbed_take  # type: ignore[method-assign]
    checkpoint.replace_folder = disturbed_replace


def run(leg: dict[str, Any]) -> None:
    arrange(leg)
    torch.set_num_threads(1)
    with join_process_group("cpu") as group:
        Trainer(leg["source"], load_train_config(leg["config"]), Path(leg["output"]), group).run()


def command(leg: dict[str, Any]) -> None:
    """The same as a user gives it: `tst-train`, with its messages and exit code."""
    arrange(leg)
    torch.set_num_threads(1)
    run_app(app, [leg["source"], "--config", leg["config"], "--output", leg["output"], "--json"])


def main() -> None:
    codes = []
    for leg in json.loads(Path(sys.argv[1]).read_text()):
        child = os.fork()
        if child == 0:
            try:
                run(leg)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
