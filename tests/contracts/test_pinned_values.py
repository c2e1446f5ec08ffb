"""What a run gives is pinned: fingerprints, shard bytes, and the windows of chosen steps.

Datasets were recorded with the first release of their format, runs with the first of order version 2; an oracle of the
rules gives the same windows. A change here means that running jobs would read other data: raise `ORDER_VERSION` or the
format version instead.

python -m pytest tests/contracts/test_pinned_values.py
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from numpy.typing import NDArray

from tests.support.order_oracle import Oracle
from tst_data import Plan, load_run, open_dataset
from tst_data.contract.wire import decode, encode
from tst_data.conversion.pipeline import convert
from tst_data.conversion.request import Conversion
from tst_data.dataset.writer import write_dataset

RUN = """\
name: pinned
datasets:
  - {path: code, weight: 3}
  - {path: prose}
sequence_length: 16
batch_size: 8
seed: 2026
shuffle_group: 2
phases:
  - {bag_size: 4, steps: 40}
  - {bag_size: 3, steps: 10, superpose: output, batch_size: 4}
  - {bag_size: 2, steps: 10, superpose: input, sequence_length: 8, weights: [0, 1]}
  - {bag_size: 1, steps: 200}
"""

RUN_FINGERPRINT = "39f3e31776bfd34eb534d57eac8b8df62766e2d024d6f7ba27999bd513951031"

DATASETS = [
    ("code", "a46aef689df89c4ea547a562c450baab6f2527be5254b05dc8c270315321c63a", "48dd523b9cf9dda5a7acfaeeeed901f2"),
    ("prose", "cfd2b56253ae0045d24701cace1aab9f625887292a0f0355e5103fce5ba042cb", "f73b8d567b787458e433ce2bd4786271"),
]
"""Name, fingerprint, and hash of all shard files."""

STEPS = [
    (0, "9549a9243c59db3e", "e4af97981188b075b66dd55bb5947373"),
    (39, "f5432274710f137f", "c15619b1e8bf5ca4fe6b3cf7ad79db12"),
    (40, "e1316b1d06ee2961", "6df3d6aaf8315cb0497854c143b62ac6"),
    (49, "405c8cf5cede22a4", "14796a89ef7ddeab2b3f19271c69230d"),
    (50, "1e08e323b61d8ac1", "375c4e91d31644d74a9bea0b17d2fad2"),
    (59, "e069aabf0cccfb73", "dc1e562979f939bb5e3d5e98f21fe296"),
    (60, "a14a398e5c8fc524", "a40f4cda3d7b6b12976cc45a4b356d4a"),
    (151, "71d8bfb3e7b16c3b", "9d5db98d3c8e19e484be3dc73a6481de"),
    (259, "9769536887f9059b", "dd2254823140cb506bba2b048726335b"),
]
"""Step, checksum of its windows, and hash of its `dataset` and `first_token` columns."""

PREFIXES = [
    (0, "36c55ce6a3adda92174b62184d59d7c88fd9ccb8f14d1c44ab598393ffecd3c9"),
    (40, "6e26a1d14a7356ef53320988c67acf2c8b9d1bad23c7e26e17a1a3241fb47a22"),
    (45, "2ae40afea639a19d49711b47ca473794ad6c38b4031dcc5f53a3869666f18b09"),
    (260, "39f3e31776bfd34eb534d57eac8b8df62766e2d024d6f7ba27999bd513951031"),
]
"""Step, and the identity of the batches before it."""

CONVERTED = "c29a319fab75b091582fe50d1cb11cda1d4a4e7d7e3e98e595d5a66c28c46aee"
CONVERTED_VALIDATION = "39c17c20b08cc9d084c6a8a44dc0f83a7d5a00a93b7ce0ad93d0e4fcf42b2ebd"


def ids(name: str, document: int) -> NDArray[Any]:
    """Token ids of a document, a hash of its name: no random stream that a library could change."""
    length = 40 + 61 * document % 900
    digest = hashlib.shake_128(f"{name} {document}".encode()).digest(2 * length)
    return np.frombuffer(digest, "<u2") % 4095


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pinned")
    for name, documents in (("code", 90), ("prose", 50)):
        write_dataset(
            folder / name,
            [ids(name, document) for document in range(documents)],
            vocabulary_size=4096,
            end_of_text_id=4095,
            sample_tokens=64,
            shard_tokens=4096,
        ).close()
    (folder / "pinned.yaml").write_text(RUN)
    return folder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


@pytest.mark.parametrize(("name", "fingerprint", "shards"), DATASETS)
def test_a_dataset_keeps_its_fingerprint_and_shard_bytes(
    folder: Path, name: str, fingerprint: str, shards: str
) -> None:
    with open_dataset(folder / name) as dataset:
        assert dataset.fingerprint == fingerprint
    assert sha256(b"".join(path.read_bytes() for path in sorted((folder / name).glob("*.mds")))) == shards


@pytest.mark.parametrize(("step", "checksum", "columns"), STEPS)
def test_a_step_keeps_its_windows(folder: Path, step: int, checksum: str, columns: str) -> None:
    with Plan(load_run(folder / "pinned.yaml")) as plan:
        assert plan.fingerprint == RUN_FINGERPRINT
        batch = plan.read_batch(step)
    assert batch.header.checksum == checksum
    assert sha256(batch.dataset.tobytes() + batch.first_token.tobytes()) == columns


def test_the_pinned_steps_are_those_of_the_rules(folder: Path) -> None:
    run = yaml.safe_load(RUN)
    with Plan(load_run(folder / "pinned.yaml")) as plan:
        oracle = Oracle(run, [dataset.shard_tokens.tolist() for dataset in plan.datasets])
    for step, _, columns in STEPS:
        datasets, first_tokens = zip(*oracle.rows(step), strict=True)
        assert sha256(np.array(datasets, "<u2").tobytes() + np.array(first_tokens, "<u8").tobytes()) == columns


@pytest.mark.parametrize(("step", "prefix"), PREFIXES)
def test_a_prefix_keeps_its_fingerprint(folder: Path, step: int, prefix: str) -> None:
    with Plan(load_run(folder / "pinned.yaml")) as plan:
        assert plan.describe().prefix_fingerprint(step) == prefix


def test_the_wire_keeps_its_metadata(folder: Path) -> None:
    with Plan(load_run(folder / "pinned.yaml")) as plan:
        body = encode(plan.read_batch(41, 1, 2))
    received = decode(body)
    sent = pa.ipc.open_stream(body).schema.metadata
    assert [key.decode() for key in sent] == [*vars(received.header), "header_checksum"]
    assert vars(received.header) == {
        "run": "pinned",
        "fingerprint": RUN_FINGERPRINT,
        "order_version": 2,
        "step": 41,
        "phase": 1,
        "bag_size": 3,
        "superpose": "output",
        "sequence_length": 16,
        "batch_size": 4,
        "rank": 1,
        "world_size": 2,
        "checksum": "8dbfa4aea3617bdb",
    }


def test_a_conversion_keeps_its_fingerprints(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(40):
        (tmp_path / "text" / f"{number:02}.txt").write_text(f"Document {number}. " * (number + 1))
    conversion = Conversion(sources=(str(tmp_path / "text"),), tokenizer="bytes", validation=0.2)
    report = convert(conversion, tmp_path / "out", num_workers=1)
    assert report.fingerprint == CONVERTED
    assert report.validation is not None
    assert report.validation.fingerprint == CONVERTED_VALIDATION
