"""One dataset's windows, epoch after epoch and phase after phase, as arithmetic.

An epoch lays the shards on one line by a keyed permutation, in groups of `shuffle_group` neighbours. The phase that
begins a group cuts all of it into windows and draws them by a keyed bijection. A later phase takes the windows of the
begun group that were not drawn, cuts each into windows of its own and draws those anew; the groups behind it cuts
itself, from whole shards. Nothing here depends on how many windows a phase will draw in the end, so a run can be
extended or switched earlier without changing a window before.

Finding a window costs O(1) besides one O(shards) table for each epoch and window shape touched; the tables of a few
epochs are kept. Nothing grows with the number of windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tst_data.contract.bags import BagGeometry
from tst_data.plan.permutation import Key, derive_key, permute

__all__ = ["DatasetOrder", "PhaseWalk", "Pool", "Position"]

Ints = NDArray[np.int64]

NUM_EPOCHS_KEPT = 4
NUM_POOLS_KEPT = 256
MAX_POOL_SHARDS_KEPT = 1 << 18
"""Bounds the pools kept where a group is the whole dataset: 4 MB of tables, or the last two pools."""


@dataclass(frozen=True)
class EpochCut:
    """One epoch of a dataset cut by one window shape, summed up by group."""

    first_window: Ints
    """Windows of the epoch before each group, shape (groups + 1,)."""
    first_token: Ints
    """Tokens of the epoch before each group, shape (groups + 1,)."""


@dataclass(frozen=True)
class Pool:
    """The windows of one group as one phase draws them: those of whole shards, or what an earlier pool left over."""

    size: int
    geometry: BagGeometry
    key: Key
    shard_first_window: Ints | None = None
    """Pool of whole shards: windows before each shard of the group, shape (shards + 1,)."""
    shard_first_token: Ints | None = None
    """Pool of whole shards: first token of each shard of the group in the token stream, shape (shards,)."""
    parent: Pool | None = None
    """Pool of leftovers: the pool that was begun by an earlier phase."""
    parent_drawn: int = 0
    """Pool of leftovers: how many of the parent's windows were drawn."""
    pieces: int = 1
    """Pool of leftovers: windows cut from each of the parent's windows."""

    def first_tokens(self, ordinals: Ints) -> Ints:
        """First token in the token stream of the `ordinals`-th windows drawn from this pool."""
        pool, within = self, np.zeros_like(ordinals)
        while pool.parent is not None:
            parent_ordinals, piece = np.divmod(permute(ordinals, pool.size, pool.key), pool.pieces)
            within += piece * pool.geometry.advance
            pool, ordinals = pool.parent, pool.parent_drawn + parent_ordinals
        assert pool.shard_first_window is not None
        assert pool.shard_first_token is not None
        drawn = permute(ordinals, pool.size, pool.key)
        shard = np.searchsorted(pool.shard_first_window, drawn, side="right") - 1
        in_shard = (drawn - pool.shard_first_window[shard]) * pool.geometry.advance
        return pool.shard_first_token[shard] + in_shard + within


@dataclass(frozen=True)
class Position:
    """A place between two windows of a dataset.

    `pool`, of which `drawn` windows are gone, is the group that was begun in `epoch`; `group` is the first one that
    was not.
    """

    epoch: int = 0
    group: int = 0
    pool: Pool | None = None
    drawn: int = 0


class DatasetOrder:
    """The keyed order of one dataset's shards: what all phases of a run share.

    `shard_tokens` holds the tokens of each shard in stream order; `dataset` is the index in the run; `shuffle_group`
    the number of shards of a group, or None for all of them.
    """

    def __init__(self, shard_tokens: Ints, *, seed: int, dataset: int, shuffle_group: int | None) -> None:
        self.shard_tokens = shard_tokens
        self.shard_first_token = np.cumsum(shard_tokens) - shard_tokens
        self.num_tokens = int(shard_tokens.sum())
        self.seed = seed
        self.dataset = dataset
        self.group_size = min(shuffle_group or len(shard_tokens), len(shard_tokens))
        self.num_groups = -(-len(shard_tokens) // self.group_size)
        self.shards_of_epoch = lru_cache(maxsize=NUM_EPOCHS_KEPT)(self._shards_of_epoch)
        self.cut_epoch = lru_cache(maxsize=NUM_EPOCHS_KEPT)(self._cut_epoch)
        num_pools_kept = max(2, min(NUM_POOLS_KEPT, MAX_POOL_SHARDS_KEPT // self.group_size))
        self.pool = lru_cache(maxsize=num_pools_kept)(self._pool)

    def key(self, purpose: str, epoch: int, phase: int = 0, group: int = 0) -> Key:
        return derive_key(purpose, seed=self.seed, dataset=self.dataset, epoch=epoch, phase=phase, index=group)

    def _shards_of_epoch(self, epoch: int) -> Ints:
        num_shards = len(self.shard_tokens)
        return permute(np.arange(num_shards), num_shards, self.key("shards", epoch))

    def _cut_epoch(self, epoch: int, geometry: BagGeometry) -> EpochCut:
        tokens = self.shard_tokens[self.shards_of_epoch(epoch)]
        begins = np.arange(0, len(tokens), self.group_size)
        return EpochCut(
            first_window=_sums_before(np.add.reduceat(geometry.num_windows(tokens), begins)),
            first_token=_sums_before(np.add.reduceat(tokens, begins)),
        )

    def _pool(self, epoch: int, group: int, phase: int, geometry: BagGeometry) -> Pool:
        """All windows of a group, cut from whole shards."""
        shards = self.shards_of_epoch(epoch)[group * self.group_size : (group + 1) * self.group_size]
        first_window = _sums_before(geometry.num_windows(self.shard_tokens[shards]))
        return Pool(
            size=int(first_window[-1]),
            geometry=geometry,
            key=self.key("windows", epoch, phase, group),
            shard_first_window=first_window,
            shard_first_token=self.shard_first_token[shards],
        )


@dataclass(frozen=True)
class Stretch:
    """Windows `first_ordinal .. first_ordinal + count - 1` of one pool, in the order they are drawn."""

    epoch: int
    group: int
    pool: Pool
    first_ordinal: int
    count: int


class PhaseWalk:
    """One dataset's windows in one phase, counted from the phase's begin: window k -> first token.

    `start` is where the phases before stopped in the dataset.
    """

    def __init__(self, order: DatasetOrder, *, phase: int, geometry: BagGeometry, start: Position) -> None:
        self.order = order
        self.phase = phase
        self.geometry = geometry
        self.start = start
        self.windows_per_epoch = int(geometry.num_windows(order.shard_tokens).sum())
        self._leftovers = self._cut_leftovers()
        self._in_leftovers = self._leftovers.size if self._leftovers else 0
        cut = order.cut_epoch(start.epoch, geometry)
        self._before_start = int(cut.first_window[start.group])
        self._in_first_epoch = self._in_leftovers + int(cut.first_window[-1]) - self._before_start

    def _cut_leftovers(self) -> Pool | None:
        begun = self.start.pool
        if begun is None:
            return None
        A, a = begun.geometry.advance, begun.geometry.lookahead
        pieces = min(A // self.geometry.advance, (A + a - self.geometry.lookahead) // self.geometry.advance)
        return Pool(
            size=(begun.size - self.start.drawn) * pieces,
            geometry=self.geometry,
            key=self.order.key("leftovers", self.start.epoch, self.phase, self.start.group - 1),
            parent=begun,
            parent_drawn=self.start.drawn,
            pieces=pieces,
        )

    def first_tokens(self, first_window: int, num_windows: int) -> Ints:
        """First tokens of a stretch of this dataset's windows in this phase, shape (num_windows,)."""
        parts = [
            stretch.pool.first_tokens(np.arange(stretch.first_ordinal, stretch.first_ordinal + stretch.count))
            for stretch in self.stretches(first_window, num_windows)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def stretches(self, first_window: int, num_windows: int) -> Iterator[Stretch]:
        """The pools that a stretch of windows comes from, in order."""
        end = first_window + num_windows
        while first_window < end:
            stretch = self._stretch(first_window, end - first_window)
            yield stretch
            first_window += stretch.count

    def _stretch(self, window: int, limit: int) -> Stretch:
        """As much of `limit` windows from `window` on as one pool holds."""
        if window < self._in_leftovers:
            assert self._leftovers is not None
            count = min(limit, self._in_leftovers - window)
            return Stretch(self.start.epoch, self.start.group - 1, self._leftovers, window, count)
        if window < self._in_first_epoch:
            epoch, in_epoch = self.start.epoch, window - self._in_leftovers + self._before_start
        else:
            epochs, in_epoch = divmod(window - self._in_first_epoch, self.windows_per_epoch)
            epoch = self.start.epoch + 1 + epochs
        cut = self.order.cut_epoch(epoch, self.geometry)
        group = int(np.searchsorted(cut.first_window, in_epoch, side="right")) - 1
        pool = self.order.pool(epoch, group, self.phase, self.geometry)
        ordinal = in_epoch - int(cut.first_window[group])
        return Stretch(epoch, group, pool, ordinal, min(limit, pool.size - ordinal))

    def position_after(self, num_windows: int) -> Position:
        """Where the dataset stands once `num_windows` were drawn; a phase that draws none leaves it untouched."""
        if num_windows == 0:
            return self.start
        last = self._stretch(num_windows - 1, 1)
        drawn = last.first_ordinal + 1
        if drawn < last.pool.size:
            return Position(last.epoch, last.group + 1, last.pool, drawn)
        if last.group + 1 == self.order.num_groups:
            return Position(last.epoch + 1)
        return Position(last.epoch, last.group + 1)

    def passed_over_at_switch(self) -> int:
        """Tokens of the begun group that do not divide into this phase's windows, if it draws any."""
        begun = self.start.pool
        if begun is None or self._leftovers is None:
            return 0
        used = self._leftovers.pieces * self.geometry.advance
        return (begun.size - self.start.drawn) * (begun.geometry.advance - used)

    def passed_over_at_ends(self, num_windows: int) -> tuple[int, int]:
        """Tokens left at shard ends in the groups this phase begins by `num_windows`, and those groups' tokens."""
        if num_windows == 0:
            return 0, 0
        end = self.position_after(num_windows)
        per_epoch = self.order.num_tokens - self.windows_per_epoch * self.geometry.advance
        epochs = end.epoch - self.start.epoch
        left_to_end, tokens_to_end = self._ends_before(end)
        left_to_start, tokens_to_start = self._ends_before(self.start)
        return (
            epochs * per_epoch + left_to_end - left_to_start,
            epochs * self.order.num_tokens + tokens_to_end - tokens_to_start,
        )

    def _ends_before(self, position: Position) -> tuple[int, int]:
        cut = self.order.cut_epoch(position.epoch, self.geometry)
        tokens = int(cut.first_token[position.group])
        return tokens - int(cut.first_window[position.group]) * self.geometry.advance, tokens


def _sums_before(counts: Ints) -> Ints:
    sums = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=sums[1:])
    return sums
