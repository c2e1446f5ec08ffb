"""What people see of a training: `metrics.jsonl`, progress on the terminal, and the report at the end.

Losses with bags are called `bag_loss` and next-token losses `next_token_loss`, because they cannot be compared. Raw
tokens and latent positions are both counted: they differ by the bag size.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer_client.trainer.metrics_log import MetricsLog
from trainer_client.trainer.process_group import ProcessGroup
from trainer_client.trainer.progress import Progress
from tst_data.contract.description import PhaseDescription, RunDescription

__all__ = ["Recorder", "TrainReport", "counted_tokens"]


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """How a training ended: what `tst-train --json` prints."""

    run: str
    fingerprint: str
    steps: int
    raw_tokens: int
    latent_positions: int
    held_out_loss: float | None
    seconds: float
    digests: list[str]
    model: str


def counted_tokens(description: RunDescription, steps: int) -> tuple[int, int]:
    """Raw tokens that the first `steps` steps read as input, and their latent positions."""
    tokens = positions = 0
    for phase in description.phases:
        done = min(max(steps - phase.first_step, 0), phase.steps)
        tokens += phase.tokens // phase.steps * done
        positions += phase.latent_positions // phase.steps * done
    return tokens, positions


class Recorder:
    """Records of one training from `first_step` on; a context manager. Only the first rank writes and shows anything.

    `seconds_before` is the time that was spent on training before this process.
    """

    def __init__(
        self,
        output: Path,
        description: RunDescription,
        group: ProcessGroup,
        first_step: int,
        *,
        seconds_before: float,
        show_progress: bool,
    ) -> None:
        self._output, self._description, self._group = output, description, group
        self._first_step = first_step
        self._seconds_before = seconds_before
        self._begin = time.monotonic()
        self._held_out_loss: float | None = None
        self._metrics = MetricsLog(output, first_step) if group.is_first else None
        self._progress = Progress(description.total_steps, first_step, shown=show_progress)
        self._restart_rate(first_step)

    @property
    def seconds(self) -> float:
        """Time spent on training so far, over all restarts."""
        return self._seconds_before + time.monotonic() - self._begin

    @property
    def held_out_loss(self) -> float | None:
        """Of the latest evaluation in this process."""
        return self._held_out_loss

    def start(self, num_parameters: int, run_before: str | None) -> None:
        """Say what is trained on what.

        `run_before` is the fingerprint that the run had when the checkpoint was saved. It is another one where the run
        was extended, or changed after that step.
        """
        description, step = self._description, self._first_step
        event = "resume" if step else "start"
        fingerprint = description.fingerprint
        changed = {} if run_before in (None, fingerprint) else {"fingerprint_before": run_before}
        self._write(event, step, fingerprint=fingerprint, **changed, world_size=self._group.world_size)
        if changed:
            self._progress.say(
                f"the run was changed after step {step}: fingerprint {run_before} before, {fingerprint} now"
            )
        self._progress.say(
            f"{event} at step {step} of {description.total_steps}: run {description.name}, {num_parameters:,} "
            f"parameters, {self._group.world_size} x {self._group.device.type}, into {self._output}"
        )
        self._restart_rate(step)

    def switch(self, phase: PhaseDescription) -> None:
        """A new phase begins."""
        before = self._description.phases[phase.phase - 1]
        self._write(
            "switch", phase.first_step, phase=phase.phase, bag_size=phase.bag_size, bag_size_before=before.bag_size
        )
        self._progress.say(f"step {phase.first_step}: bag size {before.bag_size} -> {phase.bag_size}")

    def waited(self, seconds: float) -> None:
        """Count time that was spent on waiting for a batch."""
        self._waited += seconds

    def step(self, step: int, phase: PhaseDescription, *, loss: float, learning_rate: float, grad_norm: float) -> str:
        """Record a step that was taken, and return the same in a few words."""
        now = time.monotonic()
        tokens, positions = counted_tokens(self._description, step + 1)
        tokens_before, _ = counted_tokens(self._description, self._rate_step)
        rate = (tokens - tokens_before) / (now - self._rate_begin)
        name = "next_token_loss" if phase.bag_size == 1 else "bag_loss"
        self._write(
            "step",
            step,
            phase=phase.phase,
            bag_size=phase.bag_size,
            superpose=phase.superpose,
            **{name: loss},
            raw_tokens=tokens,
            latent_positions=positions,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            data_wait_share=min(1.0, self._waited / (now - self._rate_begin)),
            tokens_per_second=rate,
            seconds=self.seconds,
        )
        self._restart_rate(step + 1)
        return f"bag size {phase.bag_size}  {name.replace('_', ' ')} {loss:.4f}  {rate:,.0f} tokens/s"

    def evaluation(self, done: int, loss: float, *, seconds: float) -> None:
        """Record a held-out loss after `done` steps. The time it took does not count as training speed."""
        self._held_out_loss = loss
        tokens, positions = counted_tokens(self._description, done)
        self._write(
            "evaluation",
            done,
            held_out_loss=loss,
            raw_tokens=tokens,
            latent_positions=positions,
            seconds=self.seconds,
        )
        self._progress.say(f"step {done}: held-out next-token loss {loss:.4f}")
        self._rate_begin += seconds

    def checkpoint(self, done: int, digests: list[str]) -> None:
        """Record that a checkpoint is saved after `done` steps."""
        self._write("checkpoint", done, digests=digests)

    def show(self, done: int, news: str | None) -> None:
        """Move the progress to `done` steps; `news` is what `step` returned, where a step was recorded."""
        self._progress.step(done, news)

    def report(self, digests: list[str], model: Path) -> TrainReport:
        """The report of a training that took all steps."""
        description = self._description
        tokens, positions = counted_tokens(description, description.total_steps)
        return TrainReport(
            run=description.name,
            fingerprint=description.fingerprint,
            steps=description.total_steps,
            raw_tokens=tokens,
            latent_positions=positions,
            held_out_loss=self._held_out_loss,
            seconds=self.seconds,
            digests=digests,
            model=str(model),
        )

    def __enter__(self) -> Recorder:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            if self._metrics is not None:
                stack.callback(self._metrics.close)
            self._progress.__exit__(kind, error, trace)

    def _write(self, event: str, step: int, **values: Any) -> None:
        if self._metrics is not None:
            self._metrics.write(event, step, **values)

    def _restart_rate(self, step: int) -> None:
        """Measure tokens per second and the share of waiting from here."""
        self._rate_begin, self._rate_step, self._waited = time.monotonic(), step, 0.0
