"""`tst-train`: train a causal LM on a run, or resume a training that was interrupted."""

from __future__ import annotations

import atexit
import gc
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tst_data.command_line import print_json, print_line, run_app

__all__ = ["main"]

app = typer.Typer(add_completion=False, rich_markup_mode=None)

STOPPED = 143
"""Exit code of a training that a signal stopped before its end, the same as of a process that SIGTERM killed."""


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_URL", help="A run's URL, a run file, or a materialized run.", show_default=False
        ),
    ],
    config: Annotated[Path | None, typer.Option(help="Training file, YAML or JSON; without one, all defaults.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints, metrics and the model. [default: training/RUN]")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume also if hyperparameters differ from the checkpoint's.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the final report as JSON.")] = False,
) -> int:
    """Train on a run through all its phases. After an interruption the same command resumes the training.

    On several GPUs: torchrun --nproc-per-node 8 -m trainer_client.cli RUN_OR_URL ...

    Example: tst-train http://localhost:8000/v1/runs/wiki-s4 --config train.yaml --output training/wiki-s4
    """
    from trainer_client.trainer.config import load_train_config
    from trainer_client.trainer.loop import Trainer
    from trainer_client.trainer.process_group import join_process_group
    from trainer_client.trainer.signals import StoppedError

    settings = load_train_config(config)
    with join_process_group(settings.device) as group:
        try:
            trainer = Trainer(
                source,
                settings,
                _output(source, output, settings.output),
                group,
                accept_changes=accept_changes,
                show_progress=True,
            )
            report = trainer.run()
        except StoppedError as stopped:
            if group.is_first:
                sys.stderr.write(f"{stopped}\n")
            return STOPPED
        if group.is_first:
            _print_report(asdict(report), as_json=json_output)
    return 0


def _output(source: str, given: Path | None, configured: str | None) -> Path:
    """Where the results go: the option, else the training file's key, else a folder with the run's name."""
    if given is not None:
        return given
    if configured is not None:
        return Path(configured)
    return Path("training") / Path(source.rstrip("/")).stem


def _print_report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    width = max(len(name) for name in report)
    for name, value in report.items():
        if value is not None:
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else value
            shown = " ".join(shown) if isinstance(shown, list) else shown
            print_line(f"{name.replace('_', ' '):<{width}}  {shown}")


def main() -> None:
    """Entry point of `tst-train`."""
    atexit.register(gc.freeze)  # else the interpreter ends with seconds of garbage collection of torch's objects
    run_app(app)


if __name__ == "__main__":
    main()
