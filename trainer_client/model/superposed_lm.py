"""Any Hugging Face causal LM under Token-Superposition Training.

Bags are averaged before the model and go in as `inputs_embeds`; single tokens take the model's own path, as
`input_ids`. The loss is computed from the trunk's hidden states and the head's weight, so the logits of a batch are
never held where only the head is between hidden states and loss. What a model can do is found by trying it
(`capabilities`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer_client.loss.multi_hot import linear_multi_hot_cross_entropy, multi_hot_cross_entropy
from trainer_client.loss.slot_weights import SlotWeights, normalized_slot_weights
from trainer_client.model.capabilities import find_capabilities
from trainer_client.model.superpose import superpose_scaled
from tst_data.errors import InvalidInputError

__all__ = ["SuperposedLM", "SuperposedOutput"]


class SuperposedOutput(NamedTuple):
    """What a training step needs of a model."""

    loss: Tensor


class _Step:
    """What one call hands past the trunk to the loss.

    A plain object, because compiled code would check the shape of a tensor that it only passes on, and compile the
    trunk again when the targets are no longer bags.
    """

    def __init__(self, targets: Tensor, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> None:
        self.targets = targets  # (b, L, s)
        self.input_ids = input_ids  # (b, L)
        self.inputs_embeds = inputs_embeds  # (b, L, d)
        # Without a mask and a cache, transformers looks for packed sequences in the positions and builds its own mask
        # (b, 1, L, L). With that mask attention does not use its causal kernel: a tenth to a quarter of a small step.
        self.attention_mask = targets.new_ones(targets.shape[:-1], dtype=torch.bool)  # (b, L)


class SuperposedLM(nn.Module):
    """`SuperposedLM(model)(batch).loss` for batches of any bag size; `.model` is the model itself.

    A batch is any mapping with `inputs` (b, L, s) and `targets` (b, L, s), each with its own s of 1 or more. Wrap
    first, then compile or distribute: `DistributedDataParallel(SuperposedLM(model))`. Every step of every phase uses
    the same parameters, and a compiled trunk is not compiled again at the switch. Where a mixture of experts reports
    its balancing loss (`output_router_logits`), that is added to the loss, as the model does itself.

    Raises InvalidInputError for a model that it cannot wrap and, when called, for bags that the model cannot take.
    """

    def __init__(self, model: nn.Module, *, slot_weights: SlotWeights = None) -> None:
        super().__init__()
        if slot_weights is not None:  # so that wrong ones are refused here and not at the first bag
            normalized_slot_weights(slot_weights, 1 if isinstance(slot_weights, str) else len(slot_weights))
        self.model = model
        self.slot_weights = slot_weights
        name = type(model).__name__
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        if not isinstance(embedding, nn.Embedding):
            raise InvalidInputError(
                f"{name}: its input embedding is {type(embedding).__name__}, but bags are averaged from the rows of an "
                "nn.Embedding; choose another model"
            )
        if embedding.weight.is_meta:
            raise InvalidInputError(f"{name}: is on the meta device; load its weights before you wrap it")
        found = find_capabilities(model)
        self.takes_bags, self.fuses_loss = found.takes_bags, found.fuses_loss

    def forward(self, batch: Mapping[str, Tensor]) -> SuperposedOutput:
        """The loss of a batch: bags or single tokens in, bags or single tokens as targets."""
        # Compiled, single tokens are looked up outside the trunk too: it then gets (b, L, d) before and after the
        # switch.
        step = self._prepare(batch, look_up=torch.compiler.is_compiling())
        predictor = self.model.base_model if self.fuses_loss else self.model
        outputs = predictor(  # type: ignore[operator]
            input_ids=step.input_ids,
            inputs_embeds=step.inputs_embeds,
            attention_mask=step.attention_mask,
            use_cache=False,
        )
        return SuperposedOutput(self._loss(outputs, step))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prepare(self, batch: Mapping[str, Tensor], look_up: bool) -> _Step:
        inputs, targets = batch["inputs"], batch["targets"]
        if inputs.shape[-1] == 1 and not (look_up and self.takes_bags):
            return _Step(targets, input_ids=inputs[..., 0])
        return _Step(targets, inputs_embeds=self._embed(inputs))

    def _embed(self, inputs: Tensor) -> Tensor:
        """Bags (b, L, s) -> (b, L, d), as the trunk takes them."""
        if not self.takes_bags:
            raise InvalidInputError(
                f"{type(self.model).__name__}: cannot take bags, because it does more to a token than to an embedding "
                "that is passed to it; train it at bag size 1, or choose another architecture"
            )
        return superpose_scaled(self.model.get_input_embeddings(), inputs)  # type: ignore[operator]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _loss(self, outputs: Any, step: _Step) -> Tensor:
        targets = step.targets
        slot_weights = self.slot_weights if targets.shape[-1] > 1 else None
        if self.fuses_loss:
            head = self.model.get_output_embeddings()  # type: ignore[operator]
            return linear_multi_hot_cross_entropy(
                outputs.last_hidden_state, head.weight, targets, bias=head.bias, slot_weights=slot_weights
            )
        loss = multi_hot_cross_entropy(outputs.logits, targets, slot_weights=slot_weights)
        balancing = getattr(outputs, "aux_loss", None)
        if balancing is not None:
            loss = loss + self.model.config.router_aux_loss_coef * balancing  # type: ignore[union-attr]
        return loss
