"""Training over HTTP, and what the demo does to it on the way.

The kills are around the switch. The server is killed in the superposition phase, the trainer just after the switch, so
the steps that it takes again cross the switch. The checkpoint before both kills is copied. At the end an undisturbed
trainer starts from that copy, reads the run file without a server, and takes the same steps again: its losses must be
those that were recorded.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.demo.display import Display, clock
from benchmarks.demo.metrics_tail import MetricsTail
from benchmarks.demo.processes import Child, Children, all_ended
from benchmarks.demo.serving import start_server
from benchmarks.demo.settings import BASELINE, TST, DemoSettings, Places

__all__ = ["Disturbance", "Rerun", "Training", "losses_of"]

POLL_SECONDS = 0.05
DOWN_SECONDS = 2.0
"""The server stays away for at least this long: many times what a trainer has fetched ahead."""
RETRY_SECONDS = 15.0
"""How long to wait, while the server is away, until a trainer says that it tries again."""
LABELS = {TST: "TST", BASELINE: "baseline"}


@dataclass
class Disturbance:
    """What was killed, at which step, and how the training continued."""

    checkpoint: int = 0
    server_killed_at: dict[str, int] = field(default_factory=dict)
    server_down_seconds: float = 0.0
    retry: str = ""
    trainer_killed_at: int = 0
    """Steps that the trainer had recorded when it was killed."""
    resumed_at: int = 0
    taken_before: dict[int, float] = field(default_factory=dict)
    """Losses of the steps that were recorded before the kill and then taken again."""


class Training:
    """One server and a trainer for each run, watched until all trainers have ended."""

    def __init__(self, output: Path, settings: DemoSettings, children: Children, display: Display) -> None:
        self._output, self._settings, self._places = output, settings, Places.of(settings)
        self._children, self._display = children, display
        self.disturbance = Disturbance(checkpoint=self._places.checkpoint)
        self.tails = {name: MetricsTail(output / name / "metrics.jsonl") for name in settings.runs}
        self._begin = time.monotonic()
        self._first_step = 0.0
        self.seconds: dict[str, float] = {}
        """How long each run took by the clock, from the start of the server, kills and restarts included."""

    def run(self) -> None:
        """Train to the end, with the kills on the way. Raises DemoError."""
        both = ", both runs at the same time" if self._settings.compares else ""
        self._display.title(f"Training over HTTP{both}, one thread for each trainer")
        self._begin = time.monotonic()
        self._server = start_server(self._output, self._settings.runs, self._children)
        self._display.say(f"server (process {self._server.child.process.pid}) ready at {self._server.ready['url']}")
        self._trainers = {name: self._start_trainer(name) for name in self._settings.runs}
        script = self._disturb()
        while not all_ended(self._trainers.values()):
            self._watch()
            next(script, None)
            time.sleep(POLL_SECONDS)
        self._watch()
        for _ in script:  # the run ended before all of the script was done: do the rest, and let the audit see it
            time.sleep(POLL_SECONDS)
        self._server.child.stop()
        self._display.clear()
        for name, tail in self.tails.items():
            evaluation = tail.latest("evaluation") or {}
            self._display.say(f"{LABELS[name]}: held-out next-token loss {evaluation.get('held_out_loss', 0):.4f}")

    def _start_trainer(self, name: str) -> Child:
        config = self._output / "training.yaml"
        run = (self._server.url(name), "--config", config, "--output", self._output / name)
        return self._children.start(f"trainer-{name}", "trainer_client.cli", *run)

    def _watch(self) -> None:
        for name, tail in self.tails.items():
            if self._trainers[name].ended:
                self.seconds.setdefault(name, time.monotonic() - self._begin)
            for record in tail.read():
                self._tell(name, record)
            step, evaluation = tail.latest("step"), tail.latest("evaluation")
            news = []
            if step is not None:
                kind = "next-token" if step["bag_size"] == 1 else "bag"
                news.append(f"{kind} loss {step.get('next_token_loss', step.get('bag_loss')):.3f}")
            if evaluation is not None:
                news.append(f"held-out {evaluation['held_out_loss']:.3f}")
            if step is not None:
                news.append(f"{self._left(tail.next_step)} left")
            self._display.show(LABELS[name], tail.next_step, self._places.steps, ", ".join(news))

    def _left(self, steps_done: int) -> str:
        """How long the remaining steps will take at the mean speed so far."""
        self._first_step = self._first_step or time.monotonic()
        passed = time.monotonic() - self._first_step
        return clock(passed * (self._places.steps - steps_done) / max(1, steps_done))

    def _tell(self, name: str, record: dict[str, Any]) -> None:
        if record["event"] == "switch":
            self._display.say(
                f"{LABELS[name]}: step {record['step']:,}: superposition ends, bag size {record['bag_size_before']} -> "
                f"{record['bag_size']}; weights, optimizer and schedule are kept"
            )

    def _disturb(self) -> Iterator[None]:
        """The kills, in order; yields whenever there is something to wait for."""
        places, tail = self._places, self.tails[TST]
        source = self._output / TST / "checkpoints" / f"step-{places.checkpoint:08d}"
        while not source.exists():
            yield
        shutil.copytree(source, self._output / "undisturbed" / "checkpoints" / source.name)
        while tail.next_step < places.kill_server:
            yield
        yield from self._kill_server()
        while tail.next_step < places.kill_trainer:
            yield
        yield from self._kill_trainer()

    def _kill_server(self) -> Iterator[None]:
        seen = self.disturbance
        port, pid = self._server.port, self._server.child.process.pid
        self._server.child.kill()
        killed = time.monotonic()
        seen.server_killed_at = {name: tail.next_step for name, tail in self.tails.items()}
        places = ", ".join(f"{LABELS[name]} at step {step:,}" for name, step in seen.server_killed_at.items())
        self._display.say(f"kill -9 of the server (process {pid}), {places}")
        while time.monotonic() < killed + DOWN_SECONDS or not seen.retry:
            for trainer in self._trainers.values():
                tries = [line for line in trainer.news() if "again" in line]
                if tries and not seen.retry:
                    seen.retry = tries[-1]
                    self._display.say(f"{trainer.name} says: {seen.retry}")
            if time.monotonic() > killed + RETRY_SECONDS:
                break
            yield
        self._server = start_server(self._output, self._settings.runs, self._children, port)
        seen.server_down_seconds = time.monotonic() - killed
        self._display.say(
            f"server started again on port {port} (process {self._server.child.process.pid}) after "
            f"{seen.server_down_seconds:.1f} s; training continues, no trainer was restarted"
        )

    def _kill_trainer(self) -> Iterator[None]:
        seen, tail, trainer = self.disturbance, self.tails[TST], self._trainers[TST]
        trainer.kill()
        tail.read()
        seen.trainer_killed_at = tail.next_step
        seen.taken_before = losses_of(tail.records, 0, seen.trainer_killed_at)
        self._display.say(
            f"kill -9 of the TST trainer (process {trainer.process.pid}) at step {seen.trainer_killed_at:,}, "
            f"{seen.trainer_killed_at - self._places.switch:,} steps after the switch"
        )
        self._trainers[TST] = restarted = self._start_trainer(TST)
        while (tail.latest("resume") or {}).get("step") is None and not restarted.ended:
            yield
        seen.resumed_at = int((tail.latest("resume") or {}).get("step", 0))
        seen.taken_before = {step: loss for step, loss in seen.taken_before.items() if step >= seen.resumed_at}
        self._display.say(
            f"TST trainer started again (process {restarted.process.pid}): resumes at step {seen.resumed_at:,} and "
            f"takes {len(seen.taken_before):,} steps a second time, the switch among them"
        )


class Rerun:
    """The undisturbed trainer: from the checkpoint before the kills, with the run file and no server."""

    def __init__(self, output: Path, disturbance: Disturbance, places: Places, children: Children) -> None:
        self.first_step = disturbance.checkpoint
        after_kills = max(disturbance.trainer_killed_at, places.switch) + places.steps // 100
        self.end_step = min(after_kills, places.steps)
        folder = output / "undisturbed"
        self._tail = MetricsTail(folder / "metrics.jsonl")
        run = (output / f"{TST}.yaml", "--config", output / "training.yaml", "--output", folder)
        self._child = children.start("trainer-undisturbed", "trainer_client.cli", *run)

    @property
    def num_steps(self) -> int:
        return self.end_step - self.first_step

    @property
    def num_done(self) -> int:
        self._tail.read()
        return max(0, min(self._tail.next_step, self.end_step) - self.first_step)

    def wait(self, display: Display) -> dict[int, float]:
        """Wait until all its steps are taken -> the loss of each. Raises DemoError."""
        while self.num_done < self.num_steps and not self._child.check():
            display.show("rerun", self.num_done, self.num_steps, "steps, undisturbed")
            time.sleep(POLL_SECONDS)
        self._child.kill()
        return losses_of(self._tail.records, self.first_step, self.end_step)


def losses_of(records: list[dict[str, Any]], first_step: int, end_step: int) -> dict[int, float]:
    """The recorded loss of each step from first_step to before end_step, bag loss or next-token loss."""
    return {
        record["step"]: float(record["next_token_loss" if "next_token_loss" in record else "bag_loss"])
        for record in records
        if record["event"] == "step" and first_step <= record["step"] < end_step
    }
