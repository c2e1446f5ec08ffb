"""Fixtures that several test modules share.

`make_run` writes a run file of a test; `write_run` does the same for fixtures with a wider scope. `plan` is the plan of
the fixture `run_file`, which a module or folder defines for itself.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import settings

from tests.support.mds_encoder import plain_streaming
from tst_data import Plan, load_run
from tst_data.dataset import mds
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import write_dataset

settings.register_profile("no deadline", deadline=None)  # speed is measured in benchmarks/, never in a test
settings.load_profile("no deadline")

END_OF_TEXT = 255

REPORTED_PACKAGES = ("numpy", "pyarrow", "torch", "transformers", "huggingface_hub", "xxhash", "mosaicml-streaming")

HAS_STREAMING = find_spec("streaming") is not None
if not HAS_STREAMING:  # an environment of a trainer node or a server node: the tests still need datasets
    mds.import_streaming = plain_streaming  # type: ignore[attr-defined]

MakeRun = Callable[..., Path]


def pytest_report_header() -> str:
    """The versions that the tests ran with: `make test-nodes` takes the newest."""
    found = {distribution.name.lower(): distribution.version for distribution in distributions()}
    return ", ".join(f"{name} {found.get(name, 'is not installed')}" for name in REPORTED_PACKAGES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `needs_streaming` where `streaming` is not installed."""
    for item in items:
        if not HAS_STREAMING and item.get_closest_marker("needs_streaming"):
            item.add_marker(pytest.mark.skip(reason="needs the extra 'convert', which is not installed"))


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_not_ignored() -> Iterator[None]:
    """Child processes get the default handling of SIGINT, also under `nohup make test &`, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="session")
def tiny_documents() -> list[npt.NDArray[np.uint16]]:
    """The token ids of the documents in `tiny_dataset`, without the closing end-of-text token 255."""
    random = np.random.default_rng(20260511)
    lengths = random.integers(0, 400, 300)
    lengths[::50] = 0
    return [random.integers(0, END_OF_TEXT, length).astype(np.uint16) for length in lengths]


@pytest.fixture(scope="session")
def tiny_dataset(
    tmp_path_factory: pytest.TempPathFactory, tiny_documents: list[npt.NDArray[np.uint16]]
) -> Iterator[Dataset]:
    """About 60,000 tokens of a vocabulary of 256 in shards of 4,096, with a tail. Copy the folder to change it."""
    folder = tmp_path_factory.mktemp("tiny") / "dataset"
    with write_dataset(
        folder,
        tiny_documents,
        vocabulary_size=256,
        end_of_text_id=END_OF_TEXT,
        sample_tokens=64,
        shard_tokens=4096,
    ) as dataset:
        yield dataset


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text and a real tokenizer beside the checkout. Tests that need them are skipped where there are none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def write_run(datasets: Any, *, folder: Path, name: str = "test", **changes: Any) -> Path:
    """Write a run file into a folder and return its path.

    `datasets` is a folder, a dataset, or a list of them or of mappings. The run has two phases of two and three steps
    unless `phases` is given.
    """
    listed = datasets if isinstance(datasets, Sequence) and not isinstance(datasets, str) else [datasets]
    content = {
        "name": name,
        "datasets": [_reference(dataset) for dataset in listed],
        "sequence_length": 16,
        "batch_size": 4,
        "seed": 17,
        "phases": [{"bag_size": 4, "steps": 2}, {"bag_size": 1, "steps": 3}],
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(datasets, **changes)` is `write_run` into the folder of the test."""
    return partial(write_run, folder=tmp_path)


@pytest.fixture(scope="module")
def plan(run_file: Path) -> Iterator[Plan]:
    """The plan of `run_file`."""
    with Plan(load_run(run_file)) as plan:
        yield plan


def _reference(dataset: Any) -> dict[str, Any]:
    if isinstance(dataset, dict):
        return dataset
    return {"path": str(dataset.path if isinstance(dataset, Dataset) else dataset)}
