"""Next-token loss on held-out text, always at bag size 1, in every phase of the training.

The windows are the first ones of the held-out dataset in stream order, without overlap, so every evaluation of every
training sees the same tokens. They are read once and kept: 64 windows of 512 positions are 64 kB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer_client.model.superposed_lm import SuperposedLM
from trainer_client.trainer.config import EvaluationConfig
from trainer_client.trainer.process_group import ProcessGroup
from tst_data.contract.bags import BagGeometry
from tst_data.contract.description import RunDescription
from tst_data.errors import InvalidInputError

__all__ = ["Evaluation", "held_out_windows"]


def held_out_windows(config: EvaluationConfig, description: RunDescription) -> NDArray[np.unsignedinteger[Any]]:
    """The windows (n, L + 1) to evaluate on. Raises InvalidInputError where the dataset does not fit the run."""
    from tst_data.dataset.reader import open_dataset

    L = config.sequence_length or max(phase.sequence_length for phase in description.phases)
    with open_dataset(config.dataset) as dataset:
        manifest = dataset.manifest
        for name in ("vocabulary_size", "end_of_text_id"):
            held_out, trained = getattr(manifest, name), getattr(description, name)
            if held_out != trained:
                raise InvalidInputError(
                    f"evaluation dataset '{config.dataset}': has {name} {held_out}, but run '{description.name}' has "
                    f"{trained}; evaluate on a dataset of the same tokenizer"
                )
        num_windows = min(config.windows, BagGeometry(bag_size=1, sequence_length=L).num_windows(dataset.num_tokens))
        if num_windows == 0:
            raise InvalidInputError(
                f"evaluation dataset '{config.dataset}': has {dataset.num_tokens} tokens, less than one window of "
                f"{L + 1}; hold out more text or lower evaluation.sequence_length"
            )
        tokens = dataset.read(0, num_windows * L + 1)
    starts = np.arange(num_windows)[:, None] * L
    windows: NDArray[np.unsignedinteger[Any]] = tokens[starts + np.arange(L + 1)]
    return windows


class Evaluation:
    """Held-out loss of a model. Each rank computes its share of the windows."""

    def __init__(self, config: EvaluationConfig, description: RunDescription, group: ProcessGroup) -> None:
        windows = held_out_windows(config, description)
        self.num_windows = len(windows)
        own = torch.from_numpy(windows[group.rank :: group.world_size].astype(np.int64))
        # With more ranks than windows some ranks have none.
        self._batches: tuple[torch.Tensor, ...] = torch.split(own, config.batch_size) if len(own) else ()
        self._group = group

    @torch.no_grad()
    def loss(self, model: SuperposedLM) -> float:
        """Mean next-token loss over all windows. The model stays in its mode (training or evaluation)."""
        total = torch.zeros((), dtype=torch.float64)
        was_training = model.training
        model.eval()
        try:
            for windows in self._batches:
                windows = windows.to(self._group.device)
                batch = {"inputs": windows[:, :-1, None], "targets": windows[:, 1:, None]}  # (b, L, 1)
                # `forward` itself, so that a compiled model is not compiled again for another batch size.
                total += len(windows) * model.forward(batch).loss.double().cpu()
        finally:
            model.train(was_training)
        return float(self._group.sum(total).item()) / self.num_windows
