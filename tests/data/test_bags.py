"""Bags and targets, token by token as docs/concepts/token-superposition.md defines them.

python -m pytest tests/data/test_bags.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tst_data.contract.bags import IGNORED, BagGeometry

geometries = st.builds(
    BagGeometry,
    bag_size=st.integers(1, 9),
    sequence_length=st.integers(1, 9),
    superpose=st.sampled_from(["both", "input", "output"]),
)


def views(geometry: BagGeometry, windows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    targets = np.full((len(windows), geometry.sequence_length, geometry.target_slots), IGNORED, dtype=np.int64)
    geometry.fill_targets(windows, targets)
    return geometry.inputs(windows), targets


@given(geometry=geometries, rows=st.integers(1, 3))
def test_every_slot_is_what_the_definition_says(geometry: BagGeometry, rows: int) -> None:
    s, L = geometry.bag_size, geometry.sequence_length
    windows = np.arange(rows * geometry.window_length).reshape(rows, -1)
    inputs, targets = views(geometry, windows)
    for row in range(rows):
        x = windows[row].tolist()
        for k in range(L):
            if geometry.superpose == "output":
                assert inputs[row, k].tolist() == [x[k]]
                assert targets[row, k].tolist() == x[k + 1 : k + 1 + s]
                continue
            assert inputs[row, k].tolist() == x[k * s : (k + 1) * s]
            if geometry.superpose == "input":
                assert targets[row, k].tolist() == [x[(k + 1) * s]]
            else:
                following = x[(k + 1) * s : (k + 2) * s]
                assert targets[row, k].tolist() == following + [IGNORED] * (s - len(following))


@given(geometry=geometries)
def test_bags_of_one_are_next_token_prediction(geometry: BagGeometry) -> None:
    plain = BagGeometry(bag_size=1, sequence_length=geometry.sequence_length, superpose=geometry.superpose)
    windows = np.arange(plain.window_length)[None]
    inputs, targets = views(plain, windows)
    assert plain.window_length == plain.sequence_length + 1
    assert inputs.reshape(-1).tolist() == windows[0, :-1].tolist()
    assert targets.reshape(-1).tolist() == windows[0, 1:].tolist()


@given(geometry=geometries)
def test_no_target_is_read_at_its_own_position_or_before(geometry: BagGeometry) -> None:
    """The leak of reshaped labels: a target must never be among the inputs of its own bag, nor of an earlier one."""
    windows = np.arange(geometry.window_length)[None]
    inputs, targets = views(geometry, windows)
    for k in range(geometry.sequence_length):
        assert targets[0, k][targets[0, k] != IGNORED].min() == inputs[0, k].max() + 1


def test_labels_reshaped_without_the_drop_would_leak() -> None:
    """A known mistake, so that the test above is known to fail on it."""
    s, L = 4, 3
    x = np.arange(s * L + 1)
    leaking = x[1:].reshape(L, s)
    inputs = x[:-1].reshape(L, s)
    assert set(leaking[0]) & set(inputs[0])


@given(geometry=geometries, num_tokens=st.integers(0, 300))
def test_windows_of_tokens_in_a_row(geometry: BagGeometry, num_tokens: int) -> None:
    fitting = [
        start for start in range(0, num_tokens, geometry.advance) if start + geometry.window_length <= num_tokens
    ]
    assert geometry.num_windows(num_tokens) == len(fitting)
    assert geometry.num_windows(np.array([num_tokens])).tolist() == [len(fitting)]


@given(geometry=geometries)
def test_numpy_and_torch_agree(geometry: BagGeometry) -> None:
    windows = np.arange(2 * geometry.window_length).reshape(2, -1)
    inputs, targets = views(geometry, windows)
    torch_targets = torch.full(targets.shape, IGNORED)
    geometry.fill_targets(torch.from_numpy(windows), torch_targets)
    assert torch.equal(torch_targets, torch.from_numpy(targets))
    assert torch.equal(geometry.inputs(torch.from_numpy(windows)), torch.from_numpy(inputs))


@pytest.mark.parametrize(("superpose", "expected"), [("both", 2049), ("input", 2049), ("output", 516)])
def test_window_lengths(superpose: str, expected: int) -> None:
    assert BagGeometry(bag_size=4, sequence_length=512, superpose=superpose).window_length == expected  # type: ignore[arg-type]
