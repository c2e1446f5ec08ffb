"""The reference trainer: a causal LM through all phases of a run, with checkpoints from which it resumes exactly.

    with join_process_group("auto") as group:
        report = Trainer(source, config, output, group).run()

The loop is that of any trainer. At the switch from superposition to recovery it only records the switch: model,
optimizer, schedule and stream continue. The output folder shows whether there is something to resume, so the command
that began a training is also the command that resumes it. On a CPU a resumed training ends with the same bits as an
undisturbed one, because batches, schedule and counters are pure functions of the step, and all else (weights, moments,
random states) is in the checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from trainer_client.model.hugging_face import build_config, build_model
from trainer_client.model.superposed_lm import SuperposedLM
from trainer_client.stream.batch import Batch
from trainer_client.stream.batch_stream import BatchStream
from trainer_client.trainer.checkpoint import Checkpoint, Checkpoints, replace_folder, saving_to
from trainer_client.trainer.config import TrainConfig
from trainer_client.trainer.evaluation import Evaluation
from trainer_client.trainer.optimization import Optimization, hyperparameters, without_gradient_exchange
from trainer_client.trainer.output_folder import REPORT, OutputFolder
from trainer_client.trainer.process_group import ProcessGroup
from trainer_client.trainer.random_state import gathered_random_states, restore_random_state, seed_rank
from trainer_client.trainer.recorder import Recorder, TrainReport
from trainer_client.trainer.signals import StoppedError, StopRequest, WaitingEndedError, stop_on_signal
from trainer_client.trainer.training_state import TrainingState
from tst_data.durable_files import TEMPORARY_SUFFIX, write_atomically
from tst_data.errors import DamagedDataError, TSTError

__all__ = ["Trainer"]


class Trainer:
    """One training of a run, into one output folder, on one of the ranks.

    Raises, before anything is written: ForeignDataError where the folder has results of other data, and
    InvalidInputError or NotFoundError for what cannot work. The folder stays locked until the end of `run`, or
    `close`. With `accept_changes` a training resumes with other hyperparameters than its checkpoint was made with.
    """

    def __init__(
        self,
        source: str,
        config: TrainConfig,
        output: Path,
        group: ProcessGroup,
        *,
        accept_changes: bool = False,
        show_progress: bool = False,
    ) -> None:
        self._config, self._output, self._group = config, output, group
        self._show_progress = show_progress and group.is_first
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._checkpoints = Checkpoints(output / "checkpoints", config.checkpoint.keep)
        self._folder = OutputFolder(output, self._checkpoints)
        self._stream = BatchStream(
            source,
            rank=group.rank,
            world_size=group.world_size,
            micro_batches=config.micro_batches,
            prefetch=config.prefetch,
            device=group.device,
            timeout_seconds=config.timeout_seconds,
        )
        self._description = self._stream.description
        self._trained: nn.Module
        """What is called with a batch: the wrapped model, in DistributedDataParallel where there are several ranks."""
        try:
            self._folder.claim(self._description, group)
            self._prepare(accept_changes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop fetching and let other processes use the output folder."""
        self._stream.close()
        self._folder.release()

    @property
    def model(self) -> nn.Module:
        """The Hugging Face model that is trained."""
        model: nn.Module = self._model
        return model

    def run(self) -> TrainReport:
        """Train to the end of the run. Raises StoppedError, with a checkpoint saved, when a signal asks to stop."""
        try:
            return self._run()
        finally:
            # The exchange of gradients is freed before the process group. Freed after it, its destructor would hold the
            # interpreter's lock and wait for a thread of gloo that may be waiting for that lock.
            self._trained = self._superposed
            self.close()

    # --- before the first step

    def _prepare(self, accept_changes: bool) -> None:
        """Model, optimizer and evaluation, new or from the newest checkpoint."""
        config, group, description = self._config, self._group, self._description
        newest = self._checkpoints.newest()
        if newest is not None and config.warmup_steps is None:
            # The default depends on the run's length. A run that was extended keeps the warm-up that it has begun with.
            config = config.model_copy(update={"warmup_steps": newest.state.hyperparameters.get("warmup_steps")})
        self._hyperparameters = hyperparameters(config, description.total_steps)
        self._run_before: str | None = None
        """Fingerprint of the run that the newest checkpoint was saved in."""
        if newest is not None:
            self._run_before = newest.state.stream["fingerprint"]
            digest = newest.state.digest_of(group.rank, group.world_size)
            self._stream.load_state_dict(newest.state.stream, digest=digest)
            if not accept_changes:
                newest.state.check_hyperparameters(self._hyperparameters, newest.folder)
        model_config = build_config(config.model, description)
        self._model_identity: dict[str, Any] = model_config.to_diff_dict()
        torch.manual_seed(config.seed)
        self._model = build_model(model_config).to(group.device)
        self._superposed = SuperposedLM(self._model, slot_weights=config.slot_weights)
        if config.compile:
            self._superposed.compile()
        self._optimization = Optimization(self._model, config, description.total_steps)
        self._evaluation = None
        if config.evaluation is not None:
            self._evaluation = Evaluation(config.evaluation, description, group)
        seed_rank(config.seed, group.rank)
        self._seconds_before = 0.0
        if newest is not None:
            self._restore(newest)
        self._trained = self._superposed
        if group.world_size > 1:
            self._trained = nn.parallel.DistributedDataParallel(self._superposed)

    def _restore(self, newest: Checkpoint) -> None:
        newest.state.check_model(self._model_identity, newest.folder)
        newest.load_model(self._model)
        saved = newest.load_training()
        self._optimization.adamw.load_state_dict(saved["optimizer"])
        restore_random_state(saved["random"], self._group, seed=self._config.seed, step=newest.state.step)
        self._seconds_before = newest.state.seconds

    # --- the loop

    def _run(self) -> TrainReport:
        first_step, total_steps = self._stream.next_step, self._description.total_steps
        self._saved_step = first_step
        if self._group.is_first:
            self._checkpoints.remove_unfinished()
            if first_step < total_steps:
                (self._output / REPORT).unlink(missing_ok=True)
        self._recorder = Recorder(
            self._output,
            self._description,
            self._group,
            first_step,
            seconds_before=self._seconds_before,
            show_progress=self._show_progress,
        )
        with self._recorder, stop_on_signal() as stop:
            self._recorder.start(sum(parameter.numel() for parameter in self._model.parameters()), self._run_before)
            if first_step == 0:
                self._evaluate(0)
            for step in range(first_step, total_steps):
                self._take(step, stop)
            if self._recorder.held_out_loss is None:
                self._evaluate(total_steps)
        return self._finish()

    def _take(self, step: int, stop: StopRequest) -> None:
        """One step, and what is due after it."""
        config, description = self._config, self._description
        phase = description.phase(step)
        if step == phase.first_step and step > 0:
            self._recorder.switch(phase)

        # Keep where stream and random states are, so that the step can be abandoned while it waits for a batch. Only a
        # single process may do that: other ranks would wait forever for a rank that has abandoned its step.
        alone = self._group.world_size == 1
        random = gathered_random_states(self._group) if alone else {}
        state, digest = self._stream.state_dict(), self._stream.digest

        # Take the step. Weights change only after its last batch has come, so putting stream and random states back
        # undoes a step that is abandoned.
        try:
            loss, norm = self._optimization.step(step, self._losses(step, stop if alone else None))
        except WaitingEndedError:
            restore_random_state(random, self._group, seed=config.seed, step=step)
            self._stream.load_state_dict(state, digest=digest)
            self._abandon(step)

        # Decide what is due. If any rank was asked to stop, all of them stop here, because they must save together.
        done = step + 1
        at_end = done == description.total_steps
        at_switch = any(done == other.first_step for other in description.phases)
        stopping = self._group.any(stop.wanted)
        saving = done % config.checkpoint.every == 0 or at_end or stopping

        # Record first, then evaluate, then save: a loss that is not finite must not get into a checkpoint, and
        # `metrics_log.keep_until` relies on this order.
        news = None
        if step % config.log_every == 0 or at_end or at_switch or step == phase.first_step or saving:
            news = self._recorder.step(
                step,
                phase,
                loss=self._finite(step, "loss", self._group.mean(loss)),
                learning_rate=self._optimization.learning_rate(step),
                grad_norm=self._finite(step, "gradient norm", norm),
            )
        if config.evaluation is not None and (done % config.evaluation.every == 0 or at_end or at_switch):
            self._evaluate(done)
        if saving:
            self._save(done)
        self._recorder.show(done, news)

        # A signal that came during the last step of the run stops nothing: the training is complete.
        if stopping and not at_end:
            raise StoppedError(
                f"output '{self._output}': stopped after step {step} of {description.total_steps}, checkpoint saved; "
                "run the same command to resume"
            )

    def _abandon(self, step: int) -> NoReturn:
        """Stop before a step that had begun. Stream and random states are at its beginning again."""
        if step != self._saved_step:
            self._save(step)
        raise StoppedError(
            f"output '{self._output}': stopped while waiting for step {step} of {self._description.total_steps}; "
            "run the same command to resume from the last checkpoint"
        )

    def _losses(self, step: int, stop: StopRequest | None) -> Iterator[Tensor]:
        """The losses of a step's micro-batches. Their sum is the mean over the rank's share."""
        num = self._config.micro_batches
        for micro_batch in range(num):
            with stop.ending_the_wait() if stop is not None else nullcontext():
                batch = self._next_batch(step, micro_batch)
            with without_gradient_exchange(self._trained, last=micro_batch == num - 1):
                with self._autocast():
                    loss = self._trained(batch).loss
                yield loss / num

    def _next_batch(self, step: int, micro_batch: int) -> Batch:
        begin = time.monotonic()
        batch = next(self._stream)
        self._recorder.waited(time.monotonic() - begin)
        if (batch.step, batch.micro_batch) != (step, micro_batch):
            raise DamagedDataError(
                f"step {step}: the stream returned micro-batch {batch.micro_batch} of step {batch.step}, expected "
                f"micro-batch {micro_batch}; nothing was trained on it, run the same command to resume"
            )
        return batch

    def _autocast(self) -> torch.autocast:
        device, precision = self._group.device.type, self._config.precision
        enabled = precision == "bfloat16" or (precision == "auto" and device == "cuda")
        return torch.autocast(device, torch.bfloat16, enabled=enabled)

    def _finite(self, step: int, name: str, measured: Tensor) -> float:
        """What was measured in a step. Raises TSTError where it is infinite or nan: the weights are, or will be."""
        value = float(measured.item())
        if math.isfinite(value):
            return value
        start = "start again"
        if self._checkpoints.exist():
            start = f"resume from the checkpoints in '{self._checkpoints.folder}' with --accept-changes"
        raise TSTError(f"step {step}: the {name} is {value}; lower learning_rate or max_grad_norm, and {start}")

    def _evaluate(self, done: int) -> None:
        if self._evaluation is None:
            return
        begin = time.monotonic()
        with self._autocast():
            loss = self._evaluation.loss(self._superposed)
        self._recorder.evaluation(done, loss, seconds=time.monotonic() - begin)

    # --- what is kept

    def _save(self, done: int) -> None:
        self._saved_step = done
        digests = self._gathered_digests()
        self._recorder.checkpoint(done, digests)
        random = gathered_random_states(self._group)
        if self._group.is_first:
            state = TrainingState(
                step=done,
                stream=self._stream.state_dict(),
                digests=digests,
                model=self._model_identity,
                seconds=self._recorder.seconds,
                hyperparameters=self._hyperparameters,
            )
            self._checkpoints.save(state, self._model, self._optimization.adamw.state_dict(), random)

    def _finish(self) -> TrainReport:
        """Save the trained model in Hugging Face format, then the report beside it."""
        target, report_path = self._output / "model", self._output / REPORT
        report = self._recorder.report(self._gathered_digests(), target)
        if self._group.is_first and not report_path.exists():  # the report is written last, so the model is whole then
            staging = target.with_name(target.name + TEMPORARY_SUFFIX)
            with saving_to(staging):
                self._model.save_pretrained(staging, safe_serialization=True)
                replace_folder(staging, target)
        if self._group.is_first:
            write_atomically(report_path, json.dumps(asdict(report), indent=2).encode())
        self._group.wait()
        return report

    def _gathered_digests(self) -> list[str]:
        own = torch.tensor(list(bytes.fromhex(self._stream.digest)), dtype=torch.uint8)
        return [bytes(digest.tolist()).hex() for digest in self._group.gather(own)]
