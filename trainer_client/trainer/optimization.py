"""One optimizer step: micro-batches, clipping, AdamW and the learning rate of the step.

Nothing here knows about bags or phases. At the switch the optimizer continues with the moments that it has, as TST
requires: resetting them there costs more than superposition gains.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer_client.trainer.config import TrainConfig
from trainer_client.trainer.learning_rate import default_warmup_steps, learning_rate_factor

__all__ = ["Optimization", "hyperparameters", "without_gradient_exchange"]


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
        self._total_steps = total_steps
        self._warmup_steps = _warmup_steps(config, total_steps)
        self._decay_fraction = config.decay_fraction

    def learning_rate(self, step: int) -> float:
        return self._peak * learning_rate_factor(
            step,
            total_steps=self._total_steps,
            warmup_steps=self._warmup_steps,
            decay_fraction=self._decay_fraction,
        )

    def step(self, step: int, losses: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Back-propagate the loss of each micro-batch as it comes, then update -> summed loss (), gradient norm ()."""
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


def hyperparameters(config: TrainConfig, total_steps: int) -> dict[str, Any]:
    """What the updates of all steps depend on besides data and model, as JSON values with defaults filled in.

    Micro-batches, precision and device are not among them: they change a result by rounding only.
    """
    weights = config.slot_weights or "uniform"
    return {
        "learning_rate": config.learning_rate,
        "betas": list(config.betas),
        "epsilon": config.epsilon,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "warmup_steps": _warmup_steps(config, total_steps),
        "decay_fraction": config.decay_fraction,
        "slot_weights": weights if isinstance(weights, str) else list(weights),
        "seed": config.seed,
    }


def _warmup_steps(config: TrainConfig, total_steps: int) -> int:
    return default_warmup_steps(total_steps) if config.warmup_steps is None else config.warmup_steps


def without_gradient_exchange(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """A context in which ranks exchange gradients with the last micro-batch of a step only."""
    if last or not isinstance(model, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
