"""What a model can do under Token-Superposition Training, found by trying it once on three tokens.

Nothing is concluded from the name of its class:

- Does its trunk give the same for a bag of equal tokens as for the token itself? If not, the model does something to
  the embedding of a token that it would not do to a bag's (a per-layer input, a multiplier), and bags are refused.
- Does the trunk's result for the first token depend on later tokens? Then the model would see what it should predict
  (BERT without `is_decoder`), and it is refused. The dependence is measured as a gradient: where attention is causal
  it is zero, not small.
- Are the logits, to the last bit, the product of the head with the hidden states? If not (a soft cap, a scale), the
  loss is taken from the model's own logits, which costs `(b, L, V)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer_client.model.superpose import superpose_scaled
from tst_data.errors import InvalidInputError

__all__ = ["Capabilities", "find_capabilities"]

LOOKS_AHEAD = 1e-5
"""A gradient by a later token is more than rounding above this share of the gradient by the token itself."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What was found out about a model."""

    takes_bags: bool
    fuses_loss: bool
    """Whether the loss can be computed from hidden states and head, without the logits of the whole batch."""


@torch.no_grad()
def find_capabilities(model: Any) -> Capabilities:
    """Try a Hugging Face causal LM. Its modes, weights and the random state stay as they are.

    Raises InvalidInputError for a model that cannot run, or in which a position depends on later tokens.
    """
    trunk, embedding = model.base_model, model.get_input_embeddings()
    training = {module: module.training for module in model.modules()}
    tokens = torch.arange(3, device=embedding.weight.device)[None] % embedding.weight.shape[0]  # (1, 3)
    try:
        hidden = _run(model, trunk, tokens)  # (1, 3, d)
        if _looks_ahead(trunk, embedding, tokens):
            raise InvalidInputError(
                f"{type(model).__name__}: a position depends on later tokens, which it should predict; train a causal "
                "model (BERT and similar models are causal with is_decoder: true)"
            )
        return Capabilities(
            takes_bags=_takes_bags(trunk, embedding, tokens, hidden),
            fuses_loss=_fuses_loss(model, trunk, tokens, hidden),
        )
    finally:
        for module, flag in training.items():
            module.training = flag


def _run(model: Any, trunk: nn.Module, tokens: Tensor) -> Tensor:
    """Hidden states (1, 3, d) in evaluation. Raises InvalidInputError for a model that cannot run, or cannot train."""
    try:
        model.train()
        devices = [tokens.device] if tokens.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout draws, and must not change what is drawn later
            trunk.forward(input_ids=tokens, use_cache=False)
        model.eval()
        hidden: Tensor = trunk.forward(input_ids=tokens, use_cache=False)[0]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInputError(
            f"{type(model).__name__}: cannot run on three tokens ({reason}); correct the keys of its configuration"
        ) from error
    return hidden


def _takes_bags(trunk: nn.Module, embedding: nn.Embedding, tokens: Tensor, hidden: Tensor) -> bool:
    """Whether bags that hold one token twice give the hidden states of that token."""
    pairs = superpose_scaled(embedding, tokens[..., None].expand(-1, -1, 2))  # (1, 3, d)
    try:
        bagged: Tensor = trunk.forward(inputs_embeds=pairs, use_cache=False)[0]
    except (TypeError, ValueError):  # the trunk takes token ids only, or needs them besides the embeddings
        return False
    return torch.allclose(bagged, hidden, rtol=1e-3, atol=1e-3 * hidden.abs().max().item())


def _fuses_loss(model: Any, trunk: nn.Module, tokens: Tensor, hidden: Tensor) -> bool:
    """Whether the logits are the head's product with the hidden states, and nothing but them makes the loss."""
    head = model.get_output_embeddings()
    balances_experts = bool(getattr(model.config, "output_router_logits", False))
    if trunk is model or not isinstance(head, nn.Linear) or balances_experts:
        return False
    logits: Tensor = model.forward(input_ids=tokens, use_cache=False).logits
    return torch.equal(logits, nn.functional.linear(hidden, head.weight, head.bias).to(logits.dtype))


@torch.enable_grad()
def _looks_ahead(trunk: nn.Module, embedding: nn.Embedding, tokens: Tensor) -> bool:
    """Whether the hidden state of the first position depends on later tokens."""
    looked_up: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        looked_up.append(output.detach().requires_grad_())
        return looked_up[-1].clone()  # some trunks scale it in place

    hook = embedding.register_forward_hook(keep)
    try:
        hidden: Tensor = trunk.forward(input_ids=tokens, use_cache=False)[0]  # (1, 3, d)
    finally:
        hook.remove()
    if not looked_up or not hidden.requires_grad:
        return False
    # Any direction would do, except those in which a norm at the end makes every hidden state equal.
    direction = torch.arange(hidden.shape[-1], device=hidden.device).cos()
    gradients = torch.cat(torch.autograd.grad(hidden[0, 0].float() @ direction, looked_up))  # (n, 3, d)
    own, ahead = (part.abs().max().item() for part in (gradients[:, :1], gradients[:, 1:]))
    return ahead > LOOKS_AHEAD * own
