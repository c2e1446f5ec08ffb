"""The plan without the data: from a run specification and the token counts of its shards to windows.

A pure function of specification, shard sizes and step. `tst_data.plan.plan` joins it with datasets on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tst_data.contract.description import PhaseDescription, phase_of_step
from tst_data.errors import InvalidInputError
from tst_data.plan.mixture import Mixture
from tst_data.plan.order import DatasetOrder, DatasetPosition, PhaseWalk
from tst_data.plan.permutation import derive_key, permute
from tst_data.run.specification import RunSpecification
from tst_data.run.weights import thousandths

__all__ = ["MAX_PHASES_IN_GROUP", "DatasetUse", "Schedule", "Windows"]

MAX_PHASES_IN_GROUP = 64
"""Phases that may draw from one shuffle group. Each costs every window of the later ones a bijection, 0.5 ms for 4,096
windows: at this limit a step takes 30 ms, and with 1,000 phases it would take half a second."""


class Windows(NamedTuple):
    """Windows in row order: dataset index (n,) uint16 and first token in its token stream (n,) uint64."""

    dataset: NDArray[np.uint16]
    first_token: NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class DatasetUse:
    """What one phase does with one dataset."""

    phase: int
    """Number of the phase."""
    dataset: int
    """Index of the dataset in the run."""
    windows: int
    """Windows that the phase draws from the dataset."""
    tokens: int
    """Raw tokens that they read as input."""
    first_epoch: float
    """Where in the dataset the phase begins: 1.25 is a quarter of the way through the second epoch."""
    last_epoch: float
    """Where in the dataset the phase ends."""
    begun: int
    """All tokens of the groups that the phase begins."""
    passed_over_at_ends: int
    """Tokens of them that are skipped, because they are left at the ends of shards."""
    passed_over_at_switch: int
    """Tokens that are skipped because the windows that an earlier phase left do not divide into those of this one."""
    repeated: bool
    """Whether the phase reads tokens that were read in an earlier epoch."""


@dataclass(frozen=True)
class _ScheduledPhase:
    description: PhaseDescription
    mixture: Mixture
    walks: tuple[PhaseWalk, ...]


class Schedule:
    """The plan's rules over shards of known sizes.

    `shard_tokens` holds for each dataset, in the run's order, the tokens of its shards in stream order. Raises
    InvalidInputError where a dataset that a phase draws from does not hold a single window of it, and where more than
    MAX_PHASES_IN_GROUP phases draw from one group.
    """

    def __init__(self, specification: RunSpecification, shard_tokens: Sequence[NDArray[np.int64]]) -> None:
        self.specification = specification
        shuffle_group = specification.shuffle_group
        self.orders = [
            DatasetOrder(
                tokens,
                seed=specification.seed,
                dataset=dataset,
                shuffle_group=None if shuffle_group == "all" else shuffle_group,
            )
            for dataset, tokens in enumerate(shard_tokens)
        ]
        self._phases: list[_ScheduledPhase] = []
        positions = [DatasetPosition()] * len(self.orders)
        first_step = 0
        for index in range(len(specification.phases)):
            phase = self._phase(index, first_step, positions)
            self._phases.append(phase)
            drawn = phase.mixture.taken(phase.description.batch_size * phase.description.steps)
            self._check_depth(phase, drawn)
            positions = [walk.position_after(int(n)) for walk, n in zip(phase.walks, drawn, strict=True)]
            first_step = phase.description.end_step
        self.phases = tuple(phase.description for phase in self._phases)
        self.num_steps = first_step

    def _phase(self, index: int, first_step: int, positions: Sequence[DatasetPosition]) -> _ScheduledPhase:
        specification = self.specification
        geometry = specification.geometry(index)
        counts = thousandths(specification.phase_weights(index))
        walks = []
        for order, count, start in zip(self.orders, counts, positions, strict=True):
            walk = PhaseWalk(order, phase=index, geometry=geometry, start=start)
            if count and walk.windows_per_epoch == 0:
                raise InvalidInputError(
                    f"'phases.{index}': needs windows of {geometry.window_length:,} tokens, but the longest shard of "
                    f"dataset '{specification.datasets[order.dataset].path}' holds "
                    f"{int(order.shard_tokens.max()):,}; lower bag_size or sequence_length, or convert more text "
                    "into longer shards"
                )
            walks.append(walk)
        batch_size, steps = specification.phase_batch_size(index), specification.phases[index].steps
        latent_positions = batch_size * geometry.sequence_length * steps
        description = PhaseDescription(
            phase=index,
            first_step=first_step,
            steps=steps,
            bag_size=geometry.bag_size,
            superpose=geometry.superpose,
            sequence_length=geometry.sequence_length,
            batch_size=batch_size,
            weights=counts,
            window_length=geometry.window_length,
            tokens=latent_positions * geometry.input_slots,
            latent_positions=latent_positions,
        )
        return _ScheduledPhase(description, Mixture(counts), tuple(walks))

    def _check_depth(self, phase: _ScheduledPhase, drawn: NDArray[np.int64]) -> None:
        for walk, count in zip(phase.walks, drawn, strict=True):
            if count and walk.phases_in_first_group > MAX_PHASES_IN_GROUP:
                raise InvalidInputError(
                    f"'phases.{walk.phase}': is the {walk.phases_in_first_group}th phase that draws from one shuffle "
                    f"group of dataset '{self.specification.datasets[walk.order.dataset].path}', expected at most "
                    f"{MAX_PHASES_IN_GROUP}; merge phases, or lower shuffle_group"
                )

    def phase(self, step: int) -> PhaseDescription:
        """The phase that a step belongs to; NotFoundError past the end."""
        return phase_of_step(self.phases, step, self.specification.name)

    def windows(self, step: int) -> Windows:
        """The windows of one step in row order, all ranks together; NotFoundError past the end."""
        return self.windows_in(self.phase(step), step)

    def windows_in(self, description: PhaseDescription, step: int) -> Windows:
        """The same for a caller that knows the step's phase already."""
        phase, B = self._phases[description.phase], description.batch_size
        step_of_phase = step - description.first_step
        first_window = step_of_phase * B
        dataset = phase.mixture.datasets(first_window, B)
        before, after = phase.mixture.taken(first_window), phase.mixture.taken(first_window + B)
        first_token = np.empty(B, dtype=np.int64)
        for number, walk in enumerate(phase.walks):
            count = int(after[number] - before[number])
            if count:
                first_token[dataset == number] = walk.first_tokens(int(before[number]), count)
        key = derive_key("rows", seed=self.specification.seed, phase=description.phase, index=step_of_phase)
        rows = permute(np.arange(B), B, key)
        return Windows(dataset[rows].astype(np.uint16), first_token[rows].astype(np.uint64))

    def uses(self) -> list[DatasetUse]:
        """What every phase does with every dataset that it draws from."""
        uses = []
        for phase in self._phases:
            drawn = phase.mixture.taken(phase.description.batch_size * phase.description.steps)
            for walk, count in zip(phase.walks, map(int, drawn), strict=True):
                if count:
                    uses.append(_use(walk, count))
        return uses


def _use(walk: PhaseWalk, num_windows: int) -> DatasetUse:
    end = walk.position_after(num_windows)
    at_ends, begun = walk.passed_over_at_ends(num_windows)
    return DatasetUse(
        phase=walk.phase,
        dataset=walk.order.dataset,
        windows=num_windows,
        tokens=num_windows * walk.geometry.advance,
        first_epoch=_epochs(walk.order, walk.start),
        last_epoch=_epochs(walk.order, end),
        begun=begun,
        passed_over_at_ends=at_ends,
        passed_over_at_switch=walk.passed_over_at_switch(),
        repeated=end.epoch > 0 and end != DatasetPosition(epoch=1),
    )


def _epochs(order: DatasetOrder, position: DatasetPosition) -> float:
    """Epochs up to a position. What is skipped counts like what is read."""
    if position.group == 0:
        return float(position.epoch)
    shards = order.shards_of_epoch(position.epoch)[: order.group_begins[position.group]]
    done = int(order.shard_tokens[shards].sum())
    if position.pool:
        done -= (position.pool.size - position.drawn) * position.pool.geometry.advance
    return position.epoch + done / order.num_tokens
