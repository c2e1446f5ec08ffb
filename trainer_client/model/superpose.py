"""Superposing the embeddings of a bag: the mean of its tokens' raw rows (TST.md, "Input").

One `embedding_bag`, so `(b, L, s, d)` is never held; sums run in float32 and the mean is cast back. A CPU's
`embedding_bag` rounds half-precision sums and gradients on the way (1% off in the gradient of a row that is met
40 times), so there the table is widened first; CUDA's accumulates in float32 by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tst_data.errors import InvalidInputError

__all__ = ["superpose"]


def superpose(embedding: nn.Embedding | Tensor, inputs: Tensor) -> Tensor:
    """Bags (b, L, s) of token ids -> (b, L, d), the mean of their rows of `embedding` or of its weight (V, d).

    With s = 1 it is the plain lookup. A scale that the embedding module applies itself is left to the caller,
    since TST averages raw embeddings. The token stream knows no padding: an embedding's `padding_idx` keeps its
    row from learning in the plain lookup only.
    """
    weight = embedding if isinstance(embedding, Tensor) else embedding.weight
    if inputs.dim() < 2 or inputs.shape[-1] == 0 or inputs.dtype not in (torch.int64, torch.int32):
        raise InvalidInputError(
            f"inputs {tuple(inputs.shape)} of {inputs.dtype} are no bags; give token ids (b, L, s) as int64"
        )
    if inputs.shape[-1] == 1:
        padding_idx = None if isinstance(embedding, Tensor) else embedding.padding_idx
        return functional.embedding(inputs[..., 0], weight, padding_idx)  # (b, L, d)
    dtype = weight.dtype
    if weight.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        weight = weight.float()
    means = functional.embedding_bag(inputs.flatten(0, -2), weight, mode="mean")  # (b·L, d)
    return means.to(dtype).unflatten(0, inputs.shape[:-1])  # (b, L, d)
