"""Any Hugging Face causal LM under Token-Superposition Training.

Bags are averaged before the model and go in as `inputs_embeds`; single tokens take the model's own path, as
`input_ids`. The loss comes from the trunk's hidden states through the head's weight, so the logits are never
held, wherever the head is all that stands between the two.

What a model does between its embedding table, its trunk and its logits is not asked of its class name but tried
out once, on three tokens, when it is wrapped:

- Does the trunk give the same for a bag of equal tokens as for the token itself? If not, the model does something
  to a token's embedding that it would not do to a bag's (a per-layer input, a multiplier), and bags are refused.
- Does what the trunk gives for the first token depend on the ones behind it? Then the model would see what it is to
  predict (BERT without `is_decoder`), and is refused. The dependence is the gradient: where attention is causal it
  is zero, not small.
- Are the logits, to the last bit, the head's product with the hidden states? If not (a soft cap, a scale), the
  loss is taken from the model's own logits, which costs `(b, L, V)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer_client.loss.multi_hot import linear_multi_hot_cross_entropy, multi_hot_cross_entropy
from trainer_client.loss.slot_weights import SlotWeights, normalised_slot_weights
from trainer_client.model.superpose import superpose
from tst_data.errors import InvalidInputError

__all__ = ["SuperposedLM", "SuperposedOutput"]


LOOKING_AHEAD = 1e-5
"""Share of a token's own gradient from which on another's is more than rounding."""


class SuperposedOutput(NamedTuple):
    """What a step needs of a model."""

    loss: Tensor


class _Step:
    """What one call hands past the trunk. A plain object, because compiled code would check the shape of a tensor
    that it only passes on, and compile the trunk again when the targets lose their bags."""

    def __init__(self, targets: Tensor, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> None:
        self.targets = targets  # (b, L, s)
        self.input_ids = input_ids  # (b, L)
        self.inputs_embeds = inputs_embeds  # (b, L, d)
        # Without a mask and a cache, transformers looks for packed sequences in the positions and builds a mask
        # (b, 1, L, L) of its own, which keeps attention from its causal kernel: a tenth to a quarter of a small step.
        self.attention_mask = targets.new_ones(targets.shape[:-1], dtype=torch.bool)  # (b, L)


class SuperposedLM(nn.Module):
    """`SuperposedLM(model)(batch).loss` for batches of any bag size; `.model` is the model itself.

    A batch is any mapping with `inputs` (b, L, s) and `targets` (b, L, s), each with its own s of 1 or more.
    Wrap first, then compile or distribute: `DistributedDataParallel(SuperposedLM(model))`. Every step of every
    phase uses the same parameters, and compiled the trunk is not compiled anew at the switch. The loss of a
    mixture of experts that reports its balancing loss (`output_router_logits`) has that added, as the model's own.

    Raises InvalidInputError for a model it cannot wrap and, when called, for bags the model cannot take.
    """

    def __init__(self, model: nn.Module, *, slot_weights: SlotWeights = None) -> None:
        super().__init__()
        if slot_weights is not None:  # wrong ones are refused here and not at the first bag
            normalised_slot_weights(slot_weights, 1 if isinstance(slot_weights, str) else len(slot_weights))
        self.model = model
        self.slot_weights = slot_weights
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        if not isinstance(embedding, nn.Embedding):
            raise InvalidInputError(
                f"the input embedding of {type(model).__name__} is {type(embedding).__name__}, not nn.Embedding; "
                "bags are averaged from its rows"
            )
        if embedding.weight.is_meta:
            raise InvalidInputError(
                f"{type(model).__name__} lies on the meta device; give it its weights before wrapping it"
            )
        self.takes_bags, self.fuses_loss = self._try_out()

    @property
    def _embedding(self) -> nn.Embedding:
        embedding: nn.Embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        return embedding

    @property
    def _trunk(self) -> nn.Module:
        trunk: nn.Module = self.model.base_model  # type: ignore[assignment]
        return trunk

    @property
    def _head(self) -> nn.Module | None:
        head: nn.Module | None = self.model.get_output_embeddings()  # type: ignore[operator]
        return head

    def forward(self, batch: Mapping[str, Tensor]) -> SuperposedOutput:
        """The loss of a batch: bags or single tokens in, bags or single tokens as targets."""
        # Compiled, tokens are looked up outside too: the trunk then sees (b, L, d) on both sides of the switch.
        step = self._prepare(batch, look_up=torch.compiler.is_compiling())
        predictor = self._trunk if self.fuses_loss else self.model
        outputs = predictor(
            input_ids=step.input_ids,
            inputs_embeds=step.inputs_embeds,
            attention_mask=step.attention_mask,
            use_cache=False,
        )
        return SuperposedOutput(self._loss(outputs, step))

    @torch.compiler.disable
    def _prepare(self, batch: Mapping[str, Tensor], look_up: bool) -> _Step:
        inputs, targets = batch["inputs"], batch["targets"]
        if inputs.shape[-1] == 1 and not (look_up and self.takes_bags):
            return _Step(targets, input_ids=inputs[..., 0])
        return _Step(targets, inputs_embeds=self._embed(inputs))

    def _embed(self, inputs: Tensor) -> Tensor:
        """Bags (b, L, s) -> (b, L, d), as the trunk takes them."""
        if not self.takes_bags:
            raise InvalidInputError(
                f"{type(self.model).__name__} cannot take bags: it treats a token's embedding otherwise than one "
                "that it is given; train it at bag size 1, or choose an architecture without that"
            )
        embedding = self._embedding
        bags = superpose(embedding, inputs)
        scale = getattr(embedding, "embed_scale", None)  # scaled by the table's module itself: Gemma 3, XGLM
        if scale is None:
            return bags
        return bags * (scale.to(bags.dtype) if isinstance(scale, Tensor) else scale)

    @torch.compiler.disable
    def _loss(self, outputs: Any, step: _Step) -> Tensor:
        targets = step.targets
        slot_weights = self.slot_weights if targets.shape[-1] > 1 else None
        if self.fuses_loss:
            head = self._head
            assert isinstance(head, nn.Linear)
            return linear_multi_hot_cross_entropy(
                outputs.last_hidden_state, head.weight, targets, bias=head.bias, slot_weights=slot_weights
            )
        loss = multi_hot_cross_entropy(outputs.logits, targets, slot_weights=slot_weights)
        balancing = getattr(outputs, "aux_loss", None)
        if balancing is not None:
            loss = loss + self.model.config.router_aux_loss_coef * balancing  # type: ignore[union-attr]
        return loss

    @torch.no_grad()
    def _try_out(self) -> tuple[bool, bool]:
        """Whether the model takes bags, and whether its logits are the head's product with the hidden states."""
        model, trunk, embedding = self.model, self._trunk, self._embedding
        training = {module: module.training for module in model.modules()}
        model.eval()
        self.takes_bags = True
        tokens = torch.arange(3, device=embedding.weight.device)[None] % embedding.weight.shape[0]  # (1, 3)
        try:
            hidden = trunk.forward(input_ids=tokens, use_cache=False)[0]
            self._refuse_looking_ahead(tokens)
            takes_bags = True
            try:
                pairs = self._embed(tokens[..., None].expand(-1, -1, 2))  # (1, 3, d): bags of a token twice
                bagged = trunk.forward(inputs_embeds=pairs, use_cache=False)[0]
                takes_bags = torch.allclose(bagged, hidden, rtol=1e-3, atol=1e-3 * hidden.abs().max().item())
            except (TypeError, ValueError):  # the trunk wants token ids, or those as well
                takes_bags = False
            head = self._head
            fuses = trunk is not model and isinstance(head, nn.Linear) and not self._balances_experts
            if fuses:
                assert isinstance(head, nn.Linear)
                logits = model.forward(input_ids=tokens, use_cache=False).logits
                fuses = torch.equal(logits, nn.functional.linear(hidden, head.weight, head.bias).to(logits.dtype))
            return takes_bags, fuses
        finally:
            for module, flag in training.items():
                module.training = flag

    @torch.enable_grad()
    def _refuse_looking_ahead(self, tokens: Tensor) -> None:
        """Raise InvalidInputError where the first position's hidden state depends on later tokens."""
        looked_up: list[Tensor] = []

        def keep(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            looked_up.append(output.detach().requires_grad_())
            return looked_up[-1].clone()  # some trunks scale it in place

        hook = self._embedding.register_forward_hook(keep)
        try:
            hidden = self._trunk.forward(input_ids=tokens, use_cache=False)[0]  # (1, 3, d)
        finally:
            hook.remove()
        if not looked_up or not hidden.requires_grad:
            return
        # Any direction will do but those that a norm at the end makes constant.
        direction = torch.arange(hidden.shape[-1], device=hidden.device).cos()
        gradients = torch.cat(torch.autograd.grad(hidden[0, 0].float() @ direction, looked_up))  # (n, 3, d)
        own, ahead = (part.abs().max().item() for part in (gradients[:, :1], gradients[:, 1:]))
        if ahead > LOOKING_AHEAD * own:
            raise InvalidInputError(
                f"{type(self.model).__name__} attends to tokens behind a position, which it is to predict; train a "
                "causal model (BERT and its kin are with is_decoder: true)"
            )

    @property
    def _balances_experts(self) -> bool:
        return bool(getattr(self.model.config, "output_router_logits", False))
