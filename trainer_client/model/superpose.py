"""Superposing the embeddings of a bag: the mean of the raw rows of its tokens.

docs/concepts/token-superposition.md#input defines it. One `embedding_bag`, so `(b, L, s, d)` is never held; sums run in
float32 and the mean is cast back. A CPU's `embedding_bag` rounds sums and gradients in half precision (1% off in the
gradient of a row that occurs 40 times), so there the table is converted first; CUDA's sums in float32 by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tst_data.errors import InvalidInputError

__all__ = ["superpose", "superpose_scaled"]


def superpose(embedding: nn.Embedding | Tensor, inputs: Tensor) -> Tensor:
    """Bags (b, L, s) of token ids -> (b, L, d), the mean of their rows of `embedding` or of its weight (V, d).

    With s = 1 it is the plain lookup. TST averages raw embeddings, so a scale that the embedding module applies itself
    is not applied (`superpose_scaled` does). The token stream has no padding: the row of `padding_idx` is trained by
    bags, but not by the plain lookup.
    """
    weight = embedding if isinstance(embedding, Tensor) else embedding.weight
    if inputs.dim() < 2 or inputs.shape[-1] == 0 or inputs.dtype not in (torch.int64, torch.int32):
        raise InvalidInputError(
            f"inputs: {inputs.dtype} of shape {tuple(inputs.shape)} are not bags; give token ids (b, L, s) as int64"
        )
    if inputs.shape[-1] == 1:
        padding_idx = None if isinstance(embedding, Tensor) else embedding.padding_idx
        return functional.embedding(inputs[..., 0], weight, padding_idx)  # (b, L, d)
    dtype = weight.dtype
    if weight.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        weight = weight.float()
    means = functional.embedding_bag(inputs.flatten(0, -2), weight, mode="mean")  # (b·L, d)
    return means.to(dtype).reshape(*inputs.shape[:-1], weight.shape[-1])  # (b, L, d)


def superpose_scaled(embedding: nn.Embedding, inputs: Tensor) -> Tensor:
    """`superpose`, times the scale that some embedding modules apply themselves (Gemma 3, XGLM): what a trunk takes."""
    bags = superpose(embedding, inputs)
    scale = getattr(embedding, "embed_scale", None)
    if scale is None:
        return bags
    return bags * (scale.to(bags.dtype) if isinstance(scale, Tensor) else scale)
