"""Training: the same command, given again when the cause is gone, ends with the weights of an undisturbed training.

To the last bit, on a CPU. Until then the command has said in one line what is wrong, and no step was trained on other
data.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.conftest import write_run
from tests.restarts.faults.conftest import replacement_of
from tests.support.conversion import Outcome
from tests.support.faults import flip_byte, no_descriptors, no_permission, small_disk
from tests.support.forked import Child, Forkserver, forkserver
from tests.support.training import MODEL
from tst_data.dataset.reader import Dataset

pytestmark = pytest.mark.slow

STEPS, SAVED = 40, 12
"""Steps of the run, and of its first checkpoint. A step reads 8 of the 63 windows of a shard."""

CONFIG: dict[str, Any] = {
    "model": MODEL,
    "seed": 3,
    "learning_rate": 0.003,
    "log_every": 1,
    "threads": 1,
    "device": "cpu",
    "checkpoint": {"every": SAVED, "keep": 2},
}


class Training(NamedTuple):
    """A run over a copy of the dataset, a training file, an output folder, and the command that trains."""

    forks: Forkserver
    dataset: Path
    run: Path
    config: Path
    output: Path
    weights: bytes
    """Of an undisturbed training."""

    def start(self, **leg: Any) -> Child:
        arguments = {"source": str(self.run), "config": str(self.config), "output": str(self.output), **leg}
        return self.forks.start("tests.support.train_legs:command", arguments)

    def ended(self, **leg: Any) -> Outcome:
        return self.start(**leg).wait()

    def ends_as_expected(self) -> bool:
        outcome = self.ended()
        assert outcome.code == 0, outcome.errors
        return weights(self.output) == self.weights

    def checkpoint(self, step: int) -> Path:
        return self.output / "checkpoints" / f"step-{step:08d}"

    def paused_before(self, step: int) -> Child:
        """The training that has taken all steps before this one, and waits until `go_on`."""
        child = self.start(pause_before_step=step)
        deadline = time.monotonic() + 60
        while not (self.output / "waiting").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (self.output / "waiting").unlink()
        return child

    def go_on(self) -> None:
        (self.output / "go").touch()


def stopped(outcome: Outcome, *parts: str) -> None:
    """Assert that a training ended with one clear line, after its progress, that names all these parts."""
    assert outcome.code == 1, outcome.errors
    assert "Traceback" not in outcome.errors
    last = outcome.errors.strip().splitlines()[-1]
    assert last.startswith("error: "), outcome.errors
    for part in parts:
        assert part in last, outcome.errors


def weights(output: Path) -> bytes:
    return (output / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forkserver]:
    with forkserver("tests.support.train_legs") as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(forks: Forkserver, tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    training = make_training(forks, tiny_dataset, tmp_path_factory.mktemp("undisturbed"), b"")
    outcome = training.ended()
    assert outcome.code == 0, outcome.errors
    return weights(training.output)


@pytest.fixture
def training(forks: Forkserver, tiny_dataset: Dataset, undisturbed: bytes, tmp_path: Path) -> Training:
    return make_training(forks, tiny_dataset, tmp_path, undisturbed)


def make_training(forks: Forkserver, dataset: Dataset, folder: Path, expected: bytes) -> Training:
    copied = folder / "dataset"
    shutil.copytree(dataset.path, copied)
    phases = [{"bag_size": 4, "steps": STEPS // 2}, {"bag_size": 1, "steps": STEPS // 2}]
    run = write_run(copied, folder=folder, batch_size=8, shuffle_group=1, phases=phases)
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    return Training(forks, copied, run, config, folder / "output", expected)


def test_kill_9(training: Training) -> None:
    """Resumes: from the newest checkpoint."""
    assert training.ended(kill_before_step=30).code == -9
    assert training.ends_as_expected()


def test_disk_full(training: Training) -> None:
    """Refused: one line, and the checkpoint before is whole. With more space the same command resumes."""
    with small_disk(training.output, 600) as disk:
        stopped(training.ended(), "no space is left")
        assert training.checkpoint(SAVED).is_dir()
        disk.grow(8192)
        assert training.ends_as_expected()


def test_file_replaced(training: Training, tiny_documents: list[Any], tmp_path: Path) -> None:
    """Refused: a dataset that was replaced is named with both fingerprints. Put back, the training resumes."""
    assert training.ended(kill_before_step=30).code == -9
    training.dataset.rename(tmp_path / "moved")
    replacement_of(tiny_documents, training.dataset)
    stopped(training.ended(), "fingerprint")
    training.dataset.rename(tmp_path / "replacement")
    (tmp_path / "moved").rename(training.dataset)
    assert training.ends_as_expected()


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checkpoint.json"])
def test_file_truncated(training: Training, name: str) -> None:
    """Refused: a checkpoint that was cut off is named. Without it the training resumes from the one before."""
    assert training.ended(kill_before_step=30).code == -9
    newest = training.checkpoint(2 * SAVED)
    os.truncate(newest / name, (newest / name).stat().st_size - 10)
    stopped(training.ended(), f"{newest / name}", f"remove '{newest}'")
    shutil.rmtree(newest)
    assert training.ends_as_expected()


def test_byte_flipped_before_use(training: Training) -> None:
    """Refused: the training ends before the step that needs a damaged piece, and names it. Restored, it resumes."""
    shards = sorted(training.dataset.glob("*.mds"))
    for shard in shards:
        flip_byte(shard, shard.stat().st_size - 100)
    stopped(training.ended(), "piece 0", "restore the file from a copy")
    for shard in shards:
        flip_byte(shard, shard.stat().st_size - 100)
    assert training.ends_as_expected()


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checkpoint.json"])
def test_byte_flipped_after_use(training: Training, name: str) -> None:
    """Refused: a checkpoint with a flipped bit is named. Without it the training resumes from the one before."""
    assert training.ended(kill_before_step=30).code == -9
    newest = training.checkpoint(2 * SAVED)
    flip_byte(newest / name, (newest / name).stat().st_size // 2)
    stopped(training.ended(), f"{newest / name}", f"remove '{newest}'")
    shutil.rmtree(newest)
    assert training.ends_as_expected()


def test_descriptors_exhausted(training: Training) -> None:
    """Waits: until its data can be opened again, then it continues by itself."""
    child = training.paused_before(SAVED + 1)
    with no_descriptors(child.pid):
        training.go_on()
        time.sleep(1.5)
    outcome = child.wait()
    assert outcome.code == 0, outcome.errors
    assert weights(training.output) == training.weights


def test_permission_lost(training: Training) -> None:
    """Waits: until its data may be read again, then it continues by itself."""
    child = training.paused_before(SAVED + 1)
    with no_permission(training.dataset), no_permission(training.output / "checkpoints", 0o500):
        training.go_on()
        time.sleep(1.5)
    outcome = child.wait()
    assert outcome.code == 0, outcome.errors
    assert weights(training.output) == training.weights


def test_permission_lost_of_a_checkpoint(training: Training) -> None:
    """A checkpoint that may not be read is not called damage; with the permission the same command resumes."""
    assert training.ended(kill_before_step=30).code == -9
    newest = training.checkpoint(2 * SAVED)
    with no_permission(newest / "model.safetensors"):
        stopped(training.ended(), f"'{newest / 'model.safetensors'}': cannot be read now (Permission denied)")
    assert training.ends_as_expected()


def test_permission_lost_where_it_saves(training: Training) -> None:
    """A checkpoint that may not be written is one line; with the permission the same command resumes."""
    child = training.paused_before(SAVED + 1)
    with no_permission(training.output / "checkpoints", 0o500):
        training.go_on()
        stopped(child.wait(), "Permission denied")
    assert training.ends_as_expected()


def test_two_writers_at_once(training: Training) -> None:
    """Refused: the second training in an output folder, in one line. The first ends undisturbed."""
    child = training.paused_before(SAVED + 1)
    stopped(training.ended(), str(training.output))
    training.go_on()
    assert child.wait().code == 0
    assert weights(training.output) == training.weights
