"""The two final models of the long demo on the same held-out windows: one loss for each window.

The models are opened like any Hugging Face model, from the folders that `tst-train` leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.dataset.reader import Dataset, open_dataset

__all__ = ["held_out_windows", "window_losses"]

BATCH_SIZE = 64


def held_out_windows(
    path: Path, num_windows: int, sequence_length: int, package_of: Mapping[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows (n, L + 1) spread evenly over a dataset, without overlap, and the number of each window's package (n,).

    `package_of` names the package of each source file. A window belongs to the document of its first token.
    """
    with open_dataset(path) as dataset:
        total = (dataset.num_tokens - 1) // sequence_length
        n = min(num_windows, total)
        starts = np.arange(n) * total // n * sequence_length  # (n,)
        tokens = dataset.read(0, total * sequence_length + 1)
        packages = _package_numbers(dataset, package_of)[starts]
    return tokens[starts[:, None] + np.arange(sequence_length + 1)].astype(np.int64), packages


def _package_numbers(dataset: Dataset, package_of: Mapping[str, str]) -> NDArray[np.int64]:
    """The number of each token's package (num_tokens,)."""
    numbers: dict[str, int] = {}
    result = np.zeros(dataset.num_tokens, dtype=np.int64)
    for document in dataset.documents(0, dataset.num_tokens):
        package = package_of[document.source]
        result[document.first_token : document.end] = numbers.setdefault(package, len(numbers))
    return result


def window_losses(folder: Path, windows: NDArray[np.int64], progress: Callable[[int], None]) -> NDArray[np.float64]:
    """Mean next-token loss of each window (n,)."""
    import torch

    from tst_data.streaming_compat import repair_torchvision

    repair_torchvision()
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)  # in evaluation mode
    losses = np.empty(len(windows), dtype=np.float64)
    with torch.inference_mode():
        for begin in range(0, len(windows), BATCH_SIZE):
            part = torch.from_numpy(windows[begin : begin + BATCH_SIZE])  # (b, L + 1)
            logits = model(input_ids=part[:, :-1], use_cache=False).logits  # (b, L, V)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none")
            losses[begin : begin + len(part)] = loss.view(len(part), -1).double().mean(dim=1).numpy()  # (b,)
            progress(begin + len(part))
    return losses
