"""What a run gives is pinned: fingerprints, shard bytes, and the windows of chosen steps.

The values were recorded with the first release of this order and format. A change here means that running jobs would
read other data: raise `ORDER_VERSION` or the format version instead.

python -m pytest tests/contracts/test_pinned_values.py
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

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

RUN_FINGERPRINT = "800ef9fb5654c25ebc25a8281c4b4c68c26a671ad974d344d601fdcf964b5bbf"

DATASETS = [
    ("code", "a46aef689df89c4ea547a562c450baab6f2527be5254b05dc8c270315321c63a", "48dd523b9cf9dda5a7acfaeeeed901f2"),
    ("prose", "cfd2b56253ae0045d24701cace1aab9f625887292a0f0355e5103fce5ba042cb", "f73b8d567b787458e433ce2bd4786271"),
]
"""Name, fingerprint, and hash of all shard files."""

STEPS = [
    (0, "42c4a55ca0c106e5", "9fe5ec9e8c7279b23aa1ddf4a7356ca9"),
    (39, "efc369840f3ce9e5", "66e55a8c14f9208fd3f8f787e11bcfb3"),
    (40, "c1f18320e75ee67c", "ee860d7fd4ab88da56074f8a19bfe1d9"),
    (49, "3ec5abd6eb4f5d61", "dc0858a8729ed1f247e54dfc1335b4c6"),
    (50, "fe8a2f9b50f9f7bc", "7247dab4c53fd4653ad2d5a950645a13"),
    (59, "5bd4acdad7ce3cb4", "3b3a8e2f56d00dd3df44abf7d5366f37"),
    (60, "6d30cfc41065631e", "2910abd33f7038fced55b1a05c6dba88"),
    (151, "24a6497d443909c5", "eeca46c79b495fde6b711af24a878075"),
    (259, "8d14c3c9cfda47ed", "69f8e27489053bab16400175550ff944"),
]
"""Step, checksum of its windows, and hash of its `dataset` and `first_token` columns."""

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


def test_the_wire_keeps_its_metadata(folder: Path) -> None:
    with Plan(load_run(folder / "pinned.yaml")) as plan:
        body = encode(plan.read_batch(41, 1, 2))
    received = decode(body)
    sent = pa.ipc.open_stream(body).schema.metadata
    assert [key.decode() for key in sent] == [*vars(received.header), "header_checksum"]
    assert vars(received.header) == {
        "run": "pinned",
        "fingerprint": RUN_FINGERPRINT,
        "order_version": 1,
        "step": 41,
        "phase": 1,
        "bag_size": 3,
        "superpose": "output",
        "sequence_length": 16,
        "batch_size": 4,
        "rank": 1,
        "world_size": 2,
        "checksum": "15c950fa2bf3d105",
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
