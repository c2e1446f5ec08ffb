"""Batches in torch: inputs and targets by their definition, and moved as trainers move mappings.

python -m pytest tests/trainer/test_batch.py
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_client import Batch
from tst_data.contract.bags import Superpose
from tst_data.contract.batch import BatchHeader, checksum


def make_batch(
    *,
    bag_size: int = 4,
    superpose: Superpose = "both",
    dtype: Any = np.uint16,
    rows: int = 3,
    length: int = 5,
    **fields: Any,
) -> Batch:
    partial = BatchHeader(
        run="r", fingerprint="f" * 64, order_version=1, step=7, phase=1, bag_size=bag_size, superpose=superpose,
        sequence_length=length, batch_size=rows, rank=0, world_size=1, checksum="",
    )  # fmt: skip
    random = np.random.default_rng(5)
    windows = random.integers(0, np.iinfo(dtype).max, (rows, partial.geometry.window_length), dtype, endpoint=True)
    return Batch(
        header=BatchHeader(**{**vars(partial), "checksum": checksum(windows)}),
        windows=torch.from_numpy(windows),
        dataset=np.zeros(rows, np.uint16),
        first_token=np.arange(rows, dtype=np.uint64),
        **fields,
    )


@given(
    bag_size=st.integers(1, 6),
    superpose=st.sampled_from(["both", "input", "output"]),
    dtype=st.sampled_from([np.uint16, np.uint32]),
    rows=st.integers(1, 3),
    length=st.integers(1, 6),
)
def test_inputs_and_targets_follow_the_definition(
    bag_size: int, superpose: Superpose, dtype: Any, rows: int, length: int
) -> None:
    batch = make_batch(bag_size=bag_size, superpose=superpose, dtype=dtype, rows=rows, length=length)
    x, s = batch.windows.to(torch.int64), bag_size
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.is_contiguous()
    for k in range(length):
        if superpose == "output":
            expected_inputs, expected_targets = x[:, k : k + 1], x[:, k + 1 : k + 1 + s]
        else:
            expected_inputs = x[:, k * s : (k + 1) * s]
            expected_targets = x[:, (k + 1) * s : (k + 2) * s][:, : 1 if superpose == "input" else s]
        assert torch.equal(batch.inputs[:, k], expected_inputs)
        there = expected_targets.shape[1]
        assert torch.equal(batch.targets[:, k, :there], expected_targets)
        assert (batch.targets[:, k, there:] == -100).all()
    assert batch.num_tokens == batch.inputs.numel()
    assert batch.num_latent_positions == rows * length


def test_the_last_bag_of_both_has_a_target_in_slot_0_only() -> None:
    targets = make_batch(bag_size=4).targets
    assert (targets[:, -1, 0] >= 0).all()
    assert (targets[:, -1, 1:] == -100).all()
    assert (targets[:, :-1] >= 0).all()


def test_inputs_and_targets_are_made_once() -> None:
    batch = make_batch()
    assert batch.inputs is batch["inputs"]
    assert batch.targets is batch["targets"]


def test_it_is_a_mapping_of_inputs_and_targets() -> None:
    batch = make_batch()
    assert list(batch) == ["inputs", "targets"]
    assert len(batch) == 2
    assert "inputs" in batch
    assert "windows" not in batch
    assert {key: value.to("cpu") for key, value in batch.items()}.keys() == {"inputs", "targets"}
    with pytest.raises(KeyError, match="labels"):
        batch["labels"]


def test_it_says_what_it_is_part_of() -> None:
    batch = make_batch(micro_batch=2)
    assert (batch.step, batch.phase, batch.bag_size, batch.superpose, batch.micro_batch) == (7, 1, 4, "both", 2)
    assert batch.checksum == batch.header.checksum
    assert "step=7" in repr(batch)


def test_batches_are_compared_by_identity() -> None:
    batch = make_batch()
    assert batch == batch
    assert batch != make_batch()
    assert len({batch, batch}) == 1


def test_to_moves_the_windows_and_keeps_everything_else() -> None:
    batch = make_batch(micro_batch=1)
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.windows.device.type == moved.inputs.device.type == moved.targets.device.type == "meta"
    assert moved.inputs.shape == batch.inputs.shape
    assert (moved.step, moved.micro_batch, moved.checksum) == (7, 1, batch.checksum)
    assert batch.windows.device.type == "cpu"


def test_inputs_are_made_on_the_device_that_was_asked_for() -> None:
    batch = make_batch(device="meta")
    assert batch.windows.device.type == "cpu"
    assert batch.inputs.device.type == batch.targets.device.type == "meta"


def test_rebuilding_it_as_movers_do_gives_the_tensors() -> None:
    batch = make_batch()
    rebuilt: Any = type(batch)
    moved = rebuilt({key: value.to("cpu") for key, value in batch.items()})
    assert isinstance(moved, dict)
    assert torch.equal(moved["inputs"], batch.inputs)


def test_a_data_loader_hands_it_on() -> None:
    batches: Any = [make_batch(), make_batch()]
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)
    for batch in loader:
        assert batch["inputs"].shape == (3, 5, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_pinned_windows_are_copied_to_the_gpu(dtype: Any) -> None:
    batch = make_batch(dtype=dtype)
    pinned = batch.pin_memory()
    assert pinned.windows.is_pinned()
    moved = pinned.to("cuda", non_blocking=True)
    assert torch.equal(moved.inputs.cpu(), batch.inputs)
    assert torch.equal(moved.targets.cpu(), batch.targets)


@pytest.mark.slow
def test_importing_the_package_is_cheap() -> None:
    heavy = ["transformers", "streaming", "datasets", "boto3", "tokenizers", "torchvision", "fastapi", "service"]
    code = f"import sys, trainer_client; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
