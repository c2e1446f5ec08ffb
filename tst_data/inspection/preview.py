"""Looking at batches: what the bags say as text, and which documents they come from.

Both are for people, so both are bounded: a request for a sequence of millions of tokens must not fill the memory of a
server.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tst_data.configuration import Frozen
from tst_data.contract.bags import IGNORED, BagGeometry, Superpose
from tst_data.dataset.reader import Dataset
from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.plan.plan import Plan

__all__ = ["BagText", "DocumentUse", "Preview", "preview_sequence", "sequence_documents"]

MAX_SEQUENCE_TOKENS = 1 << 21
"""Tokens of a sequence whose documents are listed: each bag is named once for each document in it."""

MAX_SHOWN_TOKENS = 1 << 16
"""Tokens that are shown as text."""


class DocumentUse(Frozen):
    """A document that a sequence reads from, and where."""

    id: str
    """The document's id in its source."""
    source: str
    """The file or dataset that it came from."""
    row: int
    """Its row in the source, from 0."""
    first_token: int
    """Position of its first token in the dataset's token stream."""
    length: int
    """Its tokens, the closing end-of-text token included."""
    bags: list[int]
    """The latent positions whose inputs hold tokens of it."""


class BagText(Frozen):
    """One latent position as text."""

    position: int
    """Number of the position in the sequence, from 0."""
    inputs: str
    """The tokens that are read there."""
    targets: list[str]
    """Each token that is predicted there."""


class Preview(Frozen):
    """One sequence of one step as text."""

    run: str
    """Name of the run."""
    step: int
    """Step of the run, from 0."""
    phase: int
    """Phase of the step, from 0."""
    bag_size: int
    """Tokens read or predicted at one latent position (s)."""
    superpose: Superpose
    """What is superposed."""
    sequence: int
    """Row of the sequence in the step, from 0."""
    dataset: str
    """Path of the sequence's dataset, as in the run file."""
    first_token: int
    """Position of the sequence's first token in the dataset's token stream."""
    num_bags: int
    """Latent positions of the whole sequence."""
    bags: list[BagText]
    """The first of them, as many as were asked for, but at most 65,536 tokens."""
    documents: list[DocumentUse]
    """The documents that the whole sequence reads from."""


def sequence_documents(plan: Plan, step: int, sequence: int) -> list[DocumentUse]:
    """The documents that one sequence of a step reads from, in stream order.

    Raises NotFoundError where the run has no such step, or the step no such sequence, InvalidInputError where the
    sequence is too long to be looked into.
    """
    dataset, first_token = _find(plan, step, sequence)
    return _documents(plan.datasets[dataset], first_token, plan.phase(step).geometry)


def preview_sequence(plan: Plan, step: int, sequence: int, *, max_bags: int | None = None) -> Preview:
    """The first `max_bags` bags of one sequence as text (all of them by default), with the sequence's documents.

    At most 65,536 tokens are shown. Raises NotFoundError where the run has no such step, or the step no such sequence,
    InvalidInputError where the sequence is too long to be looked into.
    """
    dataset, first_token = _find(plan, step, sequence)
    phase = plan.phase(step)
    geometry = phase.geometry
    if geometry.bag_size > MAX_SHOWN_TOKENS:
        raise InvalidInputError(
            f"run '{plan.run.name}': step {step} has bags of {geometry.bag_size:,} tokens, which are too large to show "
            f"(at most {MAX_SHOWN_TOKENS:,}); read the batch itself"
        )
    return Preview(
        run=plan.run.name,
        step=step,
        phase=phase.phase,
        bag_size=phase.bag_size,
        superpose=phase.superpose,
        sequence=sequence,
        dataset=plan.specification.datasets[dataset].path,
        first_token=first_token,
        num_bags=geometry.sequence_length,
        bags=_bags(plan.datasets[dataset], first_token, geometry, max_bags),
        documents=_documents(plan.datasets[dataset], first_token, geometry),
    )


def _find(plan: Plan, step: int, sequence: int) -> tuple[int, int]:
    """Dataset index and first token of one sequence."""
    advance = plan.phase(step).geometry.advance
    if advance > MAX_SEQUENCE_TOKENS:
        raise InvalidInputError(
            f"run '{plan.run.name}': step {step} has sequences of {advance:,} tokens, which are too long to look into "
            f"(at most {MAX_SEQUENCE_TOKENS:,}); read the batch itself"
        )
    windows = plan.windows(step)
    if not 0 <= sequence < len(windows.dataset):
        raise NotFoundError(
            f"run '{plan.run.name}': step {step} has no sequence {sequence}; choose 0 to {len(windows.dataset) - 1}"
        )
    return int(windows.dataset[sequence]), int(windows.first_token[sequence])


def _documents(dataset: Dataset, first_token: int, geometry: BagGeometry) -> list[DocumentUse]:
    """The documents of the inputs of one window. A bag at the border of two documents belongs to both."""
    slots, L = geometry.input_slots, geometry.sequence_length
    uses = []
    for document in dataset.documents(first_token, geometry.advance):
        begin = max(0, document.first_token - first_token) // slots
        end = min(L, -(-(document.end - first_token) // slots))
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


def _bags(dataset: Dataset, first_token: int, geometry: BagGeometry, max_bags: int | None) -> list[BagText]:
    whole = geometry.sequence_length
    shown = min(whole, max(1, MAX_SHOWN_TOKENS // geometry.bag_size), whole if max_bags is None else max_bags)
    # The targets of a bag are in the next one, so one bag more than is shown.
    part = replace(geometry, sequence_length=min(whole, shown + 1))
    tokenizer = dataset.tokenizer()
    window = dataset.read(first_token, part.window_length).astype(np.int64)[np.newaxis]
    inputs = part.inputs(window)[0]
    targets = np.full((1, part.sequence_length, part.target_slots), IGNORED, dtype=np.int64)
    part.fill_targets(window, targets)

    def text(ids: Any) -> str:
        return tokenizer.decode([int(token) for token in ids])

    return [
        BagText(
            position=k,
            inputs=text(inputs[k]),
            targets=[text([token]) for token in targets[0, k] if token != IGNORED],
        )
        for k in range(shown)
    ]
