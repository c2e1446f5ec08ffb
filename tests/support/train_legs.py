"""Runs legs of a training in processes of their own and lets them die where the test says.

`python train_legs.py LEGS.json` takes a list of legs one after another; each is a forked child that runs the
trainer and may end by its own SIGKILL. Forking from a process that has imported everything saves the imports of
each. On stdout: one line with the list of exit codes (-9: killed).

A leg: source, config, output; optionally one of
    kill_before_step     dies when this step is about to be taken
    kill_in_checkpoint   dies when this checkpoint is written but does not have its name yet
    pause_before_step    waits there until the file `go` lies in the output folder, having made `waiting`
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import transformers

from trainer_client.trainer import checkpoint
from trainer_client.trainer.config import load_train_config
from trainer_client.trainer.loop import Trainer
from trainer_client.trainer.process_group import joined_ranks

transformers.LlamaForCausalLM  # noqa: B018  (imported before forking)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange(leg: dict) -> None:
    """Make the trainer die or wait where the leg says."""
    output = Path(leg["output"])
    take, replace_folder = Trainer._take, checkpoint.replace_folder

    def disturbed_take(self: Trainer, step: int, stop: object) -> None:
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

    Trainer._take = disturbed_take
    checkpoint.replace_folder = disturbed_replace


def run(leg: dict) -> None:
    arrange(leg)
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        Trainer(leg["source"], load_train_config(leg["config"]), Path(leg["output"]), ranks).run()


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
