"""`tst-train`: train a causal LM on a run, from its beginning or from where it was."""

from __future__ import annotations

import atexit
import gc
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tst_data.command_line import print_json, run_app

__all__ = ["main"]

app = typer.Typer(add_completion=False, rich_markup_mode=None)

STOPPED = 143
"""Exit code of a training that a signal ended early (as of a process that SIGTERM killed): not all of it is done."""


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_URL", help="a run's URL, a run file, or a materialised run", show_default=False),
    ],
    config: Annotated[Path | None, typer.Option(help="training configuration, YAML or JSON")] = None,
    output: Annotated[
        Path | None, typer.Option(help="folder of checkpoints, metrics and the model [default: training/RUN]")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="go on though learning rate and the like are not the checkpoint's")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="print the final report as JSON")] = False,
) -> int:
    """Train on a run through all its phases. The same command goes on after an interruption.

    Data-parallel: torchrun --nproc-per-node 8 -m trainer_client.cli RUN_OR_URL ...

    Example: tst-train http://localhost:8000/v1/runs/wiki-s4 --config train.yaml --output training/wiki-s4
    """
    from trainer_client.trainer.config import load_train_config
    from trainer_client.trainer.loop import Trainer
    from trainer_client.trainer.process_group import joined_ranks
    from trainer_client.trainer.signals import StoppedError

    settings = load_train_config(config)
    with joined_ranks(settings.device) as ranks:
        try:
            trainer = Trainer(
                source,
                settings,
                _output(source, output, settings.output),
                ranks,
                accept_changes=accept_changes,
                show_progress=True,
            )
            report = trainer.run()
        except StoppedError as stopped:
            if ranks.is_first:
                sys.stderr.write(f"{stopped}\n")
            return STOPPED
        if ranks.is_first:
            _print_report(asdict(report), as_json=json_output)
    return 0


def _output(source: str, given: Path | None, configured: str | None) -> Path:
    """Where the results go: the option, else the configuration, else a folder named like the run."""
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
            print(f"{name.replace('_', ' '):<{width}}  {shown}")


def main() -> None:
    """Entry point of `tst-train`."""
    atexit.register(gc.freeze)  # the interpreter would end with seconds of garbage collection among torch's objects
    run_app(app)


if __name__ == "__main__":
    main()
