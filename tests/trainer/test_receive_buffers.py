"""Receive buffers: used again when free, never while anything refers to them.

python -m pytest tests/trainer/test_receive_buffers.py
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer_client.stream.receive_buffers import MAX_FREE_BLOCKS, ReceiveBuffers


def address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_a_freed_block_is_used_again() -> None:
    buffers = ReceiveBuffers()
    first = buffers.lease(1000)
    where = address(first)
    del first
    gc.collect()
    assert address(buffers.lease(900)) == where


@pytest.mark.slow
@pytest.mark.parametrize(
    "derive",
    [
        lambda tensor: tensor[8:16],
        lambda tensor: tensor[8:24].view(torch.uint16).view(2, 4),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.numpy()[4:9][1:],
        lambda tensor: tensor.numpy().data,
        lambda tensor: torch.from_numpy(tensor.numpy()[3:]),
    ],
    ids=["slice", "other dtype", "numpy", "numpy slice", "memoryview", "tensor of numpy"],
)
def test_a_block_is_kept_while_anything_made_from_it_lives(derive: Callable[[torch.Tensor], Any]) -> None:
    buffers = ReceiveBuffers()
    tensor = buffers.lease(1000)
    where = address(tensor)
    derived = derive(tensor)
    del tensor
    gc.collect()
    other = buffers.lease(1000)
    assert address(other) != where
    del derived
    gc.collect()
    assert address(buffers.lease(1000)) == where


def test_a_block_of_another_size_is_not_used() -> None:
    buffers = ReceiveBuffers()
    for num_bytes in (1000, 100, 5000):
        tensor = buffers.lease(num_bytes)
        assert tensor.shape == (num_bytes,)
        assert tensor.numpy().flags.writeable
        del tensor


def test_only_a_few_blocks_are_kept() -> None:
    buffers = ReceiveBuffers()
    leases = [buffers.lease(64) for _ in range(3 * MAX_FREE_BLOCKS)]
    assert len({address(lease) for lease in leases}) == len(leases)
    leases.clear()
    gc.collect()
    assert len(buffers._free) == MAX_FREE_BLOCKS
