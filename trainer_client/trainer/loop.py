"""The reference trainer: a causal LM through all phases of a run, with checkpoints to go on from exactly.

    with joined_ranks("auto") as ranks:
        report = Trainer(source, config, output, ranks).run()

The loop is the one of any trainer. At the switch from superposition to recovery it does nothing but say so: model,
optimizer, schedule and stream go on. Whether there is something to resume is seen from the output folder, so the
command that began a training is the command that goes on with it. On a CPU the resumed training ends with the very
bits of an undisturbed one, because batches, schedule and counters are pure functions of the step, and the rest
(weights, moments, random states) is in the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from trainer_client.model.hugging_face import build_config, build_model
from trainer_client.model.superposed_lm import SuperposedLM
from trainer_client.stream.batch import Batch
from trainer_client.stream.batch_stream import BatchStream
from trainer_client.trainer.checkpoint import Checkpoint, Checkpoints, Position, replace_folder
from trainer_client.trainer.config import TrainConfig
from trainer_client.trainer.evaluation import Evaluation
from trainer_client.trainer.metrics_log import MetricsLog
from trainer_client.trainer.optimization import Optimization, hyperparameters, without_gradient_exchange
from trainer_client.trainer.output_folder import REPORT, OutputFolder
from trainer_client.trainer.process_group import Ranks
from trainer_client.trainer.progress import Progress
from trainer_client.trainer.random_state import gathered_random_states, restore_random_state, seed_rank
from trainer_client.trainer.signals import StoppedError, StopRequest, WaitingEndedError, stop_on_signal
from tst_data.contract.description import PhaseDescription, RunDescription
from tst_data.durable_files import TEMPORARY_SUFFIX, write_atomically
from tst_data.errors import DamagedDataError, InvalidInputError, TSTError

__all__ = ["TrainReport", "Trainer", "counted_tokens"]


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
    """Raw tokens read as input, and latent positions, in the first `steps` steps: they differ by the bag size."""
    tokens = positions = 0
    for phase in description.phases:
        done = min(max(steps - phase.first_step, 0), phase.steps)
        tokens += phase.tokens // phase.steps * done
        positions += phase.latent_positions // phase.steps * done
    return tokens, positions


class Trainer:
    """One training of a run, into one output folder, on one of the ranks.

    Raises, before anything is written: ForeignDataError where the folder's results are of other data, and
    InvalidInputError or NotFoundError for what cannot work. The folder stays locked until the end of `run`, or
    `close`. `accept_changes` lets a training go on with other hyperparameters than its checkpoint was made with.
    """

    def __init__(
        self,
        source: str,
        config: TrainConfig,
        output: Path,
        ranks: Ranks,
        *,
        accept_changes: bool = False,
        show_progress: bool = False,
    ) -> None:
        self._config, self._output, self._ranks = config, output, ranks
        self._accept_changes = accept_changes
        self._show_progress = show_progress and ranks.is_first
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._checkpoints = Checkpoints(output / "checkpoints", config.checkpoint.keep)
        self._folder = OutputFolder(output, self._checkpoints)
        self._stream = BatchStream(
            source,
            rank=ranks.rank,
            world_size=ranks.world_size,
            micro_batches=config.micro_batches,
            prefetch=config.prefetch,
            device=ranks.device,
            timeout_seconds=config.timeout_seconds,
        )
        try:
            self._claim_output()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop fetching and leave the output folder to others."""
        self._stream.close()
        self._folder.release()

    def _claim_output(self) -> None:
        """The first rank takes the output folder; where it cannot, no rank goes on."""
        refusal: TSTError | None = None
        if self._ranks.is_first:
            try:
                self._folder.claim(self._stream.description.fingerprint)
            except TSTError as error:
                refusal = error
        if self._ranks.any(refusal is not None):
            raise refusal or InvalidInputError(f"the first rank cannot write into '{self._output}'; it says why")

    def _prepare(self) -> None:
        """Model, optimizer and evaluation, fresh or as the newest checkpoint has them."""
        config, ranks, description = self._config, self._ranks, self._stream.description
        newest = self._checkpoints.newest()
        if newest is not None:
            self._load_stream(newest)
        self._description = description
        self._hyperparameters = hyperparameters(config, description.total_steps)
        if newest is not None and not self._accept_changes:
            self._refuse_changes(newest)
        self._autocast = config.precision == "bfloat16" or (config.precision == "auto" and ranks.device.type == "cuda")
        model_config = build_config(config.model, description)
        self._model_identity: dict[str, Any] = model_config.to_diff_dict()
        torch.manual_seed(config.seed)
        self._model = build_model(model_config).to(ranks.device)
        slot_weights = config.slot_weights
        self._superposed = SuperposedLM(self._model, slot_weights=slot_weights)
        if config.compile:
            self._superposed.compile()
        self._optimization = Optimization(self._model, config, description.total_steps)
        self._evaluation = None
        if config.evaluation is not None:
            self._evaluation = Evaluation(config.evaluation, description, ranks)
        seed_rank(config.seed, ranks.rank)
        self._seconds_before = 0.0
        if newest is not None:
            self._restore(newest)
        self._trained: nn.Module = self._superposed
        if ranks.world_size > 1:
            self._trained = nn.parallel.DistributedDataParallel(self._superposed)

    @property
    def model(self) -> nn.Module:
        """The Hugging Face model that is trained."""
        model: nn.Module = self._model
        return model

    @property
    def _report_path(self) -> Path:
        return self._output / REPORT

    def run(self) -> TrainReport:
        """Train to the end of the run. Raises StoppedError, with a checkpoint saved, when a signal asks to stop."""
        try:
            return self._run()
        finally:
            self.close()

    def _run(self) -> TrainReport:
        first_step = self._saved_step = self._stream.next_step
        self._begin = time.monotonic()
        self._held_out_loss: float | None = None
        if self._ranks.is_first:
            self._checkpoints.remove_unfinished()
            if first_step < self._description.total_steps:
                self._report_path.unlink(missing_ok=True)
        self._metrics = MetricsLog(self._output, first_step) if self._ranks.is_first else None
        total_steps = self._description.total_steps
        try:
            with Progress(total_steps, first_step, shown=self._show_progress) as progress, stop_on_signal() as stop:
                self._progress = progress
                self._announce(first_step)
                if first_step == 0:
                    self._evaluate(0)
                for step in range(first_step, total_steps):
                    self._take(step, stop)
                if self._evaluation is not None and self._held_out_loss is None:
                    self._evaluate(total_steps)
        finally:
            if self._metrics is not None:
                self._metrics.close()
        return self._finish()

    def _announce(self, first_step: int) -> None:
        """What is trained on what, on the terminal and among the metrics."""
        description = self._description
        event = "resume" if first_step else "start"
        num_parameters = sum(parameter.numel() for parameter in self._model.parameters())
        self._record(event, first_step, fingerprint=description.fingerprint, world_size=self._ranks.world_size)
        self._progress.say(
            f"{event} at step {first_step} of {description.total_steps}: run {description.name}, "
            f"{num_parameters:,} parameters, {self._ranks.world_size} x {self._ranks.device.type}, into {self._output}"
        )
        self._mark = (time.monotonic(), first_step, 0.0)

    def _take(self, step: int, stop: StopRequest) -> None:
        """One step, and what is due after it."""
        config, description = self._config, self._description
        phase = description.phase(step)
        if step == phase.first_step and step > 0:
            self._switch(phase)
        alone = self._ranks.world_size == 1  # others would wait for a rank that gives its step up
        random = gathered_random_states(self._ranks) if alone else {}
        state, digest = self._stream.state_dict(), self._stream.digest
        try:
            loss, norm = self._optimization.step(step, self._losses(step, stop if alone else None))
        except WaitingEndedError:
            restore_random_state(random, self._ranks, seed=config.seed, step=step)
            self._stream.load_state_dict(state, digest=digest)
            self._give_up(step)
        done = step + 1
        at_end = done == description.total_steps
        at_switch = any(done == other.first_step for other in description.phases)
        stopping = self._ranks.any(stop.wanted)
        saving = done % config.checkpoint.every == 0 or at_end or stopping
        news = None
        if step % config.log_every == 0 or at_end or at_switch or step == phase.first_step or saving:
            news = self._log(step, phase, loss, norm)
        if self._evaluation is not None and config.evaluation is not None:
            due = done % config.evaluation.every == 0
            if due or at_end or at_switch:
                self._evaluate(done)
        if saving:
            self._save(done)
        self._progress.step(done, news)
        if stopping and not at_end:
            raise StoppedError(
                f"stopped after step {step} of {description.total_steps}, checkpoint saved in '{self._output}'; "
                "the same command goes on from there"
            )

    def _give_up(self, step: int) -> NoReturn:
        """Stop before a step that was begun; stream and random states stand at its beginning again."""
        if step != self._saved_step:
            self._save(step)
        raise StoppedError(
            f"stopped while waiting for step {step} of {self._description.total_steps}, in '{self._output}'; "
            "the same command goes on from the last checkpoint"
        )

    def _losses(self, step: int, stop: StopRequest | None) -> Iterator[Tensor]:
        """The losses of a step's micro-batches, whose sum is the mean over the rank's share."""
        num = self._config.micro_batches
        for micro_batch in range(num):
            with stop.ending_the_wait() if stop is not None else nullcontext():
                batch = self._next_batch(step, micro_batch)
            with without_gradient_exchange(self._trained, last=micro_batch == num - 1):
                with torch.autocast(self._ranks.device.type, torch.bfloat16, enabled=self._autocast):
                    loss = self._trained(batch).loss
                yield loss / num

    def _next_batch(self, step: int, micro_batch: int) -> Batch:
        begin = time.monotonic()
        batch = next(self._stream)
        self._mark = (*self._mark[:2], self._mark[2] + time.monotonic() - begin)
        if (batch.step, batch.micro_batch) != (step, micro_batch):
            raise DamagedDataError(
                f"the stream gave micro-batch {batch.micro_batch} of step {batch.step} where {micro_batch} of step "
                f"{step} was due; nothing was trained on it"
            )
        return batch

    def _log(self, step: int, phase: PhaseDescription, loss: Tensor, norm: Tensor) -> str:
        """Record a step and say it in a few words. Raises TSTError for a loss that is no number any more."""
        value = float(self._ranks.mean(loss).item())
        if not math.isfinite(value):
            begin = "begin again"
            if self._checkpoints.exist():
                begin = f"go on from the checkpoints in '{self._checkpoints.folder}' with --accept-changes"
            raise TSTError(f"the loss of step {step} is {value}; lower learning_rate or max_grad_norm, and {begin}")
        now = time.monotonic()
        since, first, waited = self._mark
        tokens, positions = counted_tokens(self._description, step + 1)
        rate = (tokens - counted_tokens(self._description, first)[0]) / (now - since)
        name = "next_token_loss" if phase.bag_size == 1 else "bag_loss"
        self._record(
            "step",
            step,
            phase=phase.phase,
            bag_size=phase.bag_size,
            superpose=phase.superpose,
            **{name: value},
            raw_tokens=tokens,
            latent_positions=positions,
            learning_rate=self._optimization.learning_rate(step),
            grad_norm=float(norm.item()),
            data_wait_share=min(1.0, waited / (now - since)),
            tokens_per_second=rate,
            seconds=self._seconds(),
        )
        self._mark = (now, step + 1, 0.0)
        return f"bag size {phase.bag_size}  {name.replace('_', ' ')} {value:.4f}  {rate:,.0f} tokens/s"

    def _switch(self, phase: PhaseDescription) -> None:
        """A new phase begins: nothing is reset, it is only noted."""
        before = self._description.phases[phase.phase - 1]
        self._record(
            "switch", phase.first_step, phase=phase.phase, bag_size=phase.bag_size, bag_size_before=before.bag_size
        )
        self._progress.say(f"step {phase.first_step}: bag size {before.bag_size} -> {phase.bag_size}")

    def _evaluate(self, done: int) -> None:
        if self._evaluation is None:
            return
        begin = time.monotonic()
        with torch.autocast(self._ranks.device.type, torch.bfloat16, enabled=self._autocast):
            self._held_out_loss = self._evaluation.loss(self._superposed)
        tokens, positions = counted_tokens(self._description, done)
        self._record(
            "evaluation",
            done,
            held_out_loss=self._held_out_loss,
            raw_tokens=tokens,
            latent_positions=positions,
            seconds=self._seconds(),
        )
        self._progress.say(f"step {done}: held-out next-token loss {self._held_out_loss:.4f}")
        since, first, waited = self._mark
        self._mark = (since + time.monotonic() - begin, first, waited)

    def _save(self, done: int) -> None:
        self._saved_step = done
        digests = self._gathered_digests()
        self._record("checkpoint", done, digests=digests)
        random = gathered_random_states(self._ranks)
        if self._ranks.is_first:
            position = Position(
                step=done,
                stream=self._stream.state_dict(),
                digests=digests,
                model=self._model_identity,
                seconds=self._seconds(),
                hyperparameters=self._hyperparameters,
            )
            self._checkpoints.save(position, self._model, self._optimization.adamw.state_dict(), random)

    def _load_stream(self, newest: Checkpoint) -> None:
        """Go to the checkpoint's step; the digest goes on where it is of the same ranks."""
        position, ranks = newest.position, self._ranks
        digest = position.digests[ranks.rank] if len(position.digests) == ranks.world_size else None
        self._stream.load_state_dict(position.stream, digest=digest)

    def _refuse_changes(self, newest: Checkpoint) -> None:
        for key, saved in newest.position.hyperparameters.items():
            given = self._hyperparameters.get(key)
            if saved != given:
                raise InvalidInputError(
                    f"'{newest.folder}' was trained with {key} {_shown(saved)}, the configuration has {_shown(given)}; "
                    "put it back, choose another --output, or go on with the new one by --accept-changes"
                )

    def _restore(self, newest: Checkpoint) -> None:
        position = newest.position
        for key in sorted(set(position.model) | set(self._model_identity)):
            saved, given = position.model.get(key), self._model_identity.get(key)
            if saved != given:
                raise InvalidInputError(
                    f"'{newest.folder}' is of a model with {key} {saved!r}, the configuration has {given!r}; "
                    "resume with the model that was saved, or choose another --output"
                )
        newest.load_model(self._model)
        state = newest.load_training()
        self._optimization.adamw.load_state_dict(state["optimizer"])
        restore_random_state(state["random"], self._ranks, seed=self._config.seed, step=position.step)
        self._seconds_before = position.seconds

    def _finish(self) -> TrainReport:
        """The trained model in Hugging Face format, and the report beside it."""
        description, target = self._description, self._output / "model"
        tokens, positions = counted_tokens(description, description.total_steps)
        report = TrainReport(
            run=description.name,
            fingerprint=description.fingerprint,
            steps=description.total_steps,
            raw_tokens=tokens,
            latent_positions=positions,
            held_out_loss=self._held_out_loss,
            seconds=self._seconds(),
            digests=self._gathered_digests(),
            model=str(target),
        )
        if self._ranks.is_first and not self._report_path.exists():  # the report is written last
            staging = target.with_name(target.name + TEMPORARY_SUFFIX)
            self._model.save_pretrained(staging, safe_serialization=True)
            replace_folder(staging, target)
        if self._ranks.is_first:
            write_atomically(self._report_path, _json(asdict(report)))
        self._ranks.wait()
        return report

    def _gathered_digests(self) -> list[str]:
        own = torch.tensor(list(bytes.fromhex(self._stream.digest)), dtype=torch.uint8)
        return [bytes(digest.tolist()).hex() for digest in self._ranks.gather(own)]

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._begin

    def _record(self, event: str, step: int, **values: Any) -> None:
        if self._metrics is not None:
            self._metrics.write(event, step, **values)


def _shown(value: Any) -> str:
    """As the configuration file has it."""
    return _json(value, indent=None).decode()


def _json(value: Any, indent: int | None = 2) -> bytes:
    import json

    return json.dumps(value, indent=indent).encode()
