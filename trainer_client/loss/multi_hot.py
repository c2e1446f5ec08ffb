"""Multi-hot cross-entropy: the loss of a bag of s targets against one set of logits.

docs/concepts/token-superposition.md#loss defines it. For one position it is `logsumexp(z) - mean_j z[y_j]`, the mean of
s ordinary cross-entropies. Each slot is averaged over its valid positions, then the slots are averaged with their
weights; a slot without any valid target is left out and the weights of the others are normalized again. Without any
valid target the value is nan and the gradient zero, as in `torch.nn.functional.cross_entropy`. At s = 1 the loss is
that function.

Both forms make one pass over the vocabulary for any s. With coefficients `a_kj` (weight of slot j, divided by its
number of valid positions) the loss is `sum_kj a_kj (logsumexp(z_k) - z_k[y_kj])`; only the gathering and scattering of
s numbers per position depends on s. `(b, L, s, V)` never exists.

`linear_multi_hot_cross_entropy` takes the input of the head and goes over positions in chunks of about `CHUNK_ELEMENTS`
logits. It computes the gradients in the forward pass, while a chunk's logits are in memory. That takes three matrix
products, where computing the logits again in the backward pass takes four; the price is to hold the head's gradient
(V, d) in float32 from the forward to the backward pass. At 4,096 positions, d = 512, V = 32,768 it adds 161 MB at its
peak, where logits and `cross_entropy` add 1,618 MB, and takes three quarters of their time; s = 8 takes 1.04 times the
time of s = 1 and no more memory (benchmarks/loss.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer_client.loss.slot_weights import SlotWeights, slot_weights_tensor
from tst_data.contract.bags import IGNORED
from tst_data.errors import InvalidInputError

__all__ = ["linear_multi_hot_cross_entropy", "multi_hot_cross_entropy"]

CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**27}
"""Logits that are held at the same time: on a CPU they should fit its caches, on a GPU a product should fill it."""


def multi_hot_cross_entropy(logits: Tensor, targets: Tensor, *, slot_weights: SlotWeights = None) -> Tensor:
    """Loss of logits (b, L, V) against targets (b, L, s) int64, with IGNORED (-100) for no target -> scalar.

    Half-precision logits are converted to float32 first; the result is float32 or, from float64, float64.
    Raises InvalidInputError for shapes and dtypes that do not fit.
    """
    _check_targets("logits", logits, targets)
    logits = logits.to(_accumulation_dtype(logits.dtype)).flatten(0, -2)  # (N, V)
    targets = targets.flatten(0, -2)  # (N, s)
    weights = slot_weights_tensor(slot_weights, targets.shape[-1], logits)  # (s,)
    if targets.shape[-1] == 1:
        return functional.cross_entropy(logits, targets[:, 0], ignore_index=IGNORED)
    valid, coefficients, known = _coefficients(targets, weights)
    log_normalizer = torch.logsumexp(logits, dim=-1, keepdim=True)  # (N, 1)
    picked = logits.gather(-1, torch.where(valid, targets, 0))  # (N, s)
    loss = torch.where(valid, coefficients * (log_normalizer - picked), 0.0).sum()
    return torch.where(known, loss, math.nan)


def linear_multi_hot_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    slot_weights: SlotWeights = None,
) -> Tensor:
    """`multi_hot_cross_entropy(hidden @ weight.T + bias, targets)`, but those logits are never held.

    Shapes: hidden (b, L, d), weight (V, d), bias (V,), targets (b, L, s) -> scalar in float32, or float64 from
    float64. Under autocast the matrix products run in the autocast dtype, sums in float32. The result can be
    differentiated once, not twice. Raises InvalidInputError for shapes and dtypes that do not fit.
    """
    _check_targets("hidden", hidden, targets)
    device_type = hidden.device.type
    autocast = torch.is_autocast_enabled(device_type) and hidden.dtype != torch.float64
    _check_head(hidden, weight, bias, autocast)
    compute_dtype = torch.get_autocast_dtype(device_type) if autocast else hidden.dtype
    hidden = hidden.flatten(0, -2)  # (N, d)
    targets = targets.flatten(0, -2)  # (N, s)
    like = hidden.new_empty((), dtype=_accumulation_dtype(hidden.dtype))
    weights = slot_weights_tensor(slot_weights, targets.shape[-1], like)  # (s,)
    valid, coefficients, known = _coefficients(targets, weights)
    needs_gradient = tuple(
        torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    )
    loss: Tensor = _LinearMultiHotCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, torch.where(valid, targets, 0), valid, coefficients, compute_dtype, needs_gradient
    )
    return torch.where(known, loss, math.nan)


def _coefficients(targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of targets (N, s): which are valid (N, s), how much each counts (N, s; the sum is 1), whether any counts ()."""
    valid = targets != IGNORED  # (N, s)
    counts = valid.sum(dim=0)  # (s,)
    weights = torch.where(counts > 0, weights, 0.0)
    total = weights.sum()
    known = total > 0
    per_slot = weights / (counts.clamp(min=1) * torch.where(known, total, 1.0))  # (s,)
    return valid, torch.where(valid, per_slot, 0.0), known


class _LinearMultiHotCrossEntropy(torch.autograd.Function):
    """Value and gradients of the fused loss, computed chunk after chunk of positions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (N, d)
        weight: Tensor,  # (V, d)
        bias: Tensor | None,  # (V,)
        targets: Tensor,  # (N, s), each from 0 to V - 1
        valid: Tensor,  # (N, s)
        coefficients: Tensor,  # (N, s)
        compute_dtype: torch.dtype,
        needs_gradient: tuple[bool, bool, bool],
    ) -> Tensor:
        N, V = hidden.shape[0], weight.shape[0]
        sum_dtype = coefficients.dtype
        # In float16 the gradient of a mean over N positions would vanish, so it is scaled, exactly, by a power of 2.
        scale = 2.0 ** round(math.log2(max(N, 1)))
        head = weight.to(compute_dtype)
        needs_hidden, needs_weight, needs_bias = needs_gradient
        grad_hidden = torch.empty(hidden.shape, dtype=sum_dtype, device=hidden.device) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=sum_dtype, device=hidden.device) if needs_weight else None
        grad_bias = torch.zeros(V, dtype=sum_dtype, device=hidden.device) if needs_bias else None
        loss = coefficients.new_zeros(())
        step = max(64, CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS["cuda"]) // V)
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, N, step):
                rows = slice(start, start + step)
                inputs = hidden[rows].to(compute_dtype)  # (n, d)
                logits = torch.mm(inputs, head.t()).to(sum_dtype)  # (n, V)
                if bias is not None:
                    logits += bias.to(sum_dtype)
                part, gradient = _chunk(
                    logits, targets[rows], valid[rows], coefficients[rows], scale, any(needs_gradient)
                )
                loss += part
                if grad_bias is not None:
                    grad_bias += gradient.sum(dim=0)
                gradient = gradient.to(compute_dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = torch.mm(gradient, head)
                if grad_weight is not None:
                    if compute_dtype == sum_dtype:
                        grad_weight.addmm_(gradient.t(), inputs)
                    else:
                        grad_weight += torch.mm(gradient.t(), inputs)
        ctx.scale = scale
        ctx.dtypes = (hidden.dtype, weight.dtype, bias.dtype if bias is not None else None)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_loss / ctx.scale
        gradients = [
            None if gradient is None else (gradient * factor).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*gradients, None, None, None, None, None)


def _chunk(
    logits: Tensor, targets: Tensor, valid: Tensor, coefficients: Tensor, scale: float, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    """A chunk's part of the loss, and `scale` times the gradient by its logits (n, V), written over the logits."""
    picked = logits.gather(-1, targets)  # (n, s)
    largest = logits.amax(dim=-1, keepdim=True)  # (n, 1)
    logits.sub_(largest).exp_()
    total = logits.sum(dim=-1, keepdim=True)  # (n, 1)
    log_normalizer = total.log() + largest
    loss = torch.where(valid, coefficients * (log_normalizer - picked), 0.0).sum()
    if needs_gradient:
        logits.mul_(scale * coefficients.sum(dim=-1, keepdim=True) / total)
        logits.scatter_add_(-1, targets, -scale * coefficients)
    return loss, logits


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_targets(name: str, predictions: Tensor, targets: Tensor) -> None:
    """Raise unless predictions are (b, L, n), floating point, and targets (b, L, s), int64."""
    if not predictions.dtype.is_floating_point:
        raise InvalidInputError(f"{name}: expected floating point (given: {predictions.dtype})")
    if targets.dtype != torch.int64:
        raise InvalidInputError(f"targets: expected int64 (given: {targets.dtype}); convert them with .long()")
    if predictions.dim() < 2 or predictions.shape[:-1] != targets.shape[:-1] or targets.shape[-1] == 0:
        raise InvalidInputError(
            f"targets: the shape {tuple(targets.shape)} does not fit {name} {tuple(predictions.shape)}; "
            "give shapes that differ in the last dimension only, (b, L, n) and (b, L, s) with s of 1 or more"
        )


def _check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, autocast: bool) -> None:
    """Raise unless weight is (V, d) and bias (V,), of the dtype of hidden (b, L, d) unless autocast converts them."""
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        raise InvalidInputError(
            f"weight: the shape {tuple(weight.shape)} does not fit hidden {tuple(hidden.shape)}; give (V, d)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InvalidInputError(
            f"bias: the shape {tuple(bias.shape)} does not fit weight {tuple(weight.shape)}; give (V,)"
        )
    others = [weight] if bias is None else [weight, bias]
    if not autocast and any(tensor.dtype != hidden.dtype for tensor in others):
        given = ", ".join(str(tensor.dtype) for tensor in [hidden, *others])
        raise InvalidInputError(f"hidden, weight, bias: have different dtypes ({given}); convert them to one")
