"""A dataset to damage, and a run over it: what several rows of the matrix need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.conftest import write_run
from tst_data import Plan, load_run
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import write_dataset

STEPS = range(0, 250, 50)
"""The steps that are compared, and step 1. Steps 0 and 1 are in one shard, step 100 in another."""


class Data(NamedTuple):
    """A copy of the dataset for one test, a run over it, and where the steps are in it."""

    dataset: Path
    run: Path
    expected: dict[int, str]
    """The checksum of each step that is compared."""
    used: Path
    """The shard of steps 0 and 1."""
    place: int
    """A byte of step 1 in it, which step 0 does not hold."""
    other: Path
    """The shard of step 100."""


def copy_of(dataset: Dataset, folder: Path, name: str = "test") -> Data:
    """A copy of the dataset, and a run over it whose steps draw from one shard after another."""
    copied = folder / f"{name}-dataset"
    shutil.copytree(dataset.path, copied)
    phases = [{"bag_size": 1, "steps": 260}]
    run = write_run(copied, folder=folder, name=name, batch_size=4, shuffle_group=1, phases=phases)
    with Plan(load_run(run)) as plan:
        expected = {step: plan.read_batch(step).header.checksum for step in (*STEPS, 1)}
        used, place = _place(plan, 1)
        other, _ = _place(plan, 100)
    assert used != other
    return Data(copied, run, expected, used, place, other)


def replacement_of(documents: list[Any], folder: Path) -> Path:
    """A dataset of the same layout as `tiny_dataset` with other tokens."""
    others = [(document + 1) % 255 for document in documents]
    layout: dict[str, Any] = {"vocabulary_size": 256, "end_of_text_id": 255, "sample_tokens": 64, "shard_tokens": 4096}
    write_dataset(folder, others, **layout).close()
    return folder


def _place(plan: Plan, step: int) -> tuple[Path, int]:
    """The shard file of a step, and where its first window begins in it."""
    dataset = plan.datasets[0]
    first = int(plan.windows(step).first_token[0])
    shard = int(np.searchsorted(dataset.shard_first_token, first, side="right")) - 1
    path = dataset.path / f"shard.{shard:05}.mds"
    header = path.stat().st_size - int(dataset.shard_tokens[shard]) * dataset.dtype.itemsize
    return path, header + (first - int(dataset.shard_first_token[shard])) * dataset.dtype.itemsize


@pytest.fixture
def data(tmp_path: Path, tiny_dataset: Dataset) -> Data:
    return copy_of(tiny_dataset, tmp_path)
