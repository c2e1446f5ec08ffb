"""Looking at batches: the documents behind every bag, and what the bags say as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from tst_data.configuration import Frozen
from tst_data.contract.bags import IGNORED, Superpose
from tst_data.errors import NotFoundError
from tst_data.plan.plan import Plan

__all__ = ["BagText", "DocumentUse", "Preview", "preview_sequence", "sequence_documents"]


class DocumentUse(Frozen):
    """A document that a sequence reads from, and the latent positions whose inputs hold tokens of it.

    `row` is where the document stands in its source; `first_token` where it begins in the dataset's token stream;
    `length` its tokens, the closing end-of-text token included.
    """

    id: str
    source: str
    row: int
    first_token: int
    length: int
    bags: list[int]


class BagText(Frozen):
    """One latent position: the text of what is read there, and of each token predicted there."""

    position: int
    inputs: str
    targets: list[str]


class Preview(Frozen):
    """One sequence of one step as text."""

    run: str
    step: int
    phase: int
    bag_size: int
    superpose: Superpose
    sequence: int
    dataset: str
    first_token: int
    num_bags: int
    bags: list[BagText]
    documents: list[DocumentUse]


def sequence_documents(plan: Plan, step: int, sequence: int) -> list[DocumentUse]:
    """The documents that one sequence of a step reads from, in stream order.

    Raises NotFoundError where the run has no such step or the step no such sequence.
    """
    dataset, first_token = _find(plan, step, sequence)
    geometry = plan.phase(step).geometry
    slots, L = geometry.input_slots, geometry.sequence_length
    uses = []
    for document in plan.datasets[dataset].documents(first_token, geometry.advance):
        begin = max(0, document.first_token - first_token) // slots
        end = min(L, -(-(document.first_token + document.length - first_token) // slots))
        uses.append(
            DocumentUse(
                id=document.id,
                source=document.source,
                row=document.row,
                first_token=document.first_token,
                length=document.length,
                bags=list(range(begin, end)),
            )
        )
    return uses


def preview_sequence(plan: Plan, step: int, sequence: int, *, max_bags: int | None = None) -> Preview:
    """The first `max_bags` bags of one sequence as text (all of them by default), with the sequence's documents.

    Raises NotFoundError where the run has no such step or the step no such sequence.
    """
    dataset_index, first_token = _find(plan, step, sequence)
    phase = plan.phase(step)
    geometry = phase.geometry
    dataset = plan.datasets[dataset_index]
    tokenizer = dataset.tokenizer()
    window = dataset.read(first_token, geometry.window_length).astype(np.int64)[np.newaxis]
    inputs = geometry.inputs(window)[0]
    targets = np.full((1, geometry.sequence_length, geometry.target_slots), IGNORED, dtype=np.int64)
    geometry.fill_targets(window, targets)

    def text(ids: Any) -> str:
        return tokenizer.decode([int(token) for token in ids])

    shown = min(geometry.sequence_length, max_bags) if max_bags is not None else geometry.sequence_length
    bags = [
        BagText(
            position=k,
            inputs=text(inputs[k]),
            targets=[text([token]) for token in targets[0, k] if token != IGNORED],
        )
        for k in range(shown)
    ]
    return Preview(
        run=plan.run.name,
        step=step,
        phase=phase.phase,
        bag_size=phase.bag_size,
        superpose=phase.superpose,
        sequence=sequence,
        dataset=plan.specification.datasets[dataset_index].path,
        first_token=first_token,
        num_bags=geometry.sequence_length,
        bags=bags,
        documents=sequence_documents(plan, step, sequence),
    )


def _find(plan: Plan, step: int, sequence: int) -> tuple[int, int]:
    """Dataset index and first token of one sequence."""
    windows = plan.windows(step)
    if not 0 <= sequence < len(windows.dataset):
        raise NotFoundError(
            f"step {step} of run '{plan.run.name}' has no sequence {sequence}; its {len(windows.dataset):,} sequences "
            "count from 0"
        )
    return int(windows.dataset[sequence]), int(windows.first_token[sequence])
