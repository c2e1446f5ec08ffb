"""One optimizer step: micro-batches, clipping, AdamW and the learning rate of the step.

Nothing here knows of bags or phases: at the switch the optimizer goes on with the moments it has, which is what
TST asks for (resetting them there costs more than superposition gains).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer_client.learning_rate import default_warmup_steps, learning_rate_factor
from trainer_client.train_config import TrainConfig

__all__ = ["Optimization"]


class Optimization:
    """The optimizer and its schedule over all steps of the run."""

    def __init__(self, model: nn.Module, config: TrainConfig, total_steps: int) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in self._parameters if parameter.dim() >= 2]
        vectors = [parameter for parameter in self._parameters if parameter.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            fused=True,
        )
        self._peak = config.learning_rate
        self._max_grad_norm = math.inf if config.max_grad_norm is None else config.max_grad_norm
        warmup = default_warmup_steps(total_steps) if config.warmup_steps is None else config.warmup_steps
        self.schedule: dict[str, Any] = {
            "total_steps": total_steps,
            "warmup_steps": warmup,
            "decay_fraction": config.decay_fraction,
        }

    def learning_rate(self, step: int) -> float:
        return self._peak * learning_rate_factor(step, **self.schedule)

    def step(self, step: int, losses: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Back-propagate each micro-batch's loss as it comes, then update -> summed loss (), gradient norm ()."""
        total: Tensor | None = None
        for loss in losses:
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        rate = self.learning_rate(step)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return total, norm


def without_gradient_exchange(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Ranks exchange gradients once a step, with its last micro-batch."""
    if last or not isinstance(model, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
