"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import settings

from tests.support.mds_encoder import plain_streaming
from tst_data.dataset import mds
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import write_dataset

settings.register_profile("no deadline", deadline=None)  # speed is measured in benchmarks/, never in a test
settings.load_profile("no deadline")

END_OF_TEXT = 255

REPORTED_PACKAGES = ("numpy", "pyarrow", "torch", "transformers", "huggingface_hub", "xxhash", "mosaicml-streaming")

HAS_STREAMING = find_spec("streaming") is not None
if not HAS_STREAMING:  # an environment of a trainer node or a server node: the tests still need datasets
    mds.import_streaming = plain_streaming

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


@pytest.fixture(scope="session")
def tiny_documents() -> list[np.ndarray]:
    """The token ids of the documents in `tiny_dataset`, without the closing end-of-text token 255."""
    random = np.random.default_rng(20260511)
    lengths = random.integers(0, 400, 300)
    lengths[::50] = 0
    return [random.integers(0, END_OF_TEXT, length).astype(np.uint16) for length in lengths]


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, tiny_documents: list[np.ndarray]) -> Iterator[Dataset]:
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
    """Real text and a real tokenizer that may lie beside the project; tests that need them skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(datasets, name="test", **changes)` writes a run file and gives its path.

    `datasets` is a folder, a dataset, or a list of them or of mappings; two phases of two and three steps unless
    `phases` is given.
    """

    def write(datasets: Any, *, name: str = "test", folder: Path = tmp_path, **changes: Any) -> Path:
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

    return write


def _reference(dataset: Any) -> dict[str, Any]:
    if isinstance(dataset, dict):
        return dataset
    return {"path": str(dataset.path if isinstance(dataset, Dataset) else dataset)}
