"""One dataset's windows, epoch after epoch and phase after phase, as arithmetic.

In each epoch a keyed permutation puts the shards in a new order, and neighbors form groups of equal size. The phase
that begins a group cuts all of it into windows and draws them by a keyed bijection. A later phase takes the windows of
that group that were not drawn, cuts each of them into windows of its own and draws those in a new order; the groups
after it are cut from whole shards. Nothing here depends on how many windows a phase will draw in the end, so a run can
be extended, or a phase ended earlier, without changing a window before (docs/concepts/pure-batches.md#phases).

Finding a window costs O(1), and one O(shards) table for each epoch and window shape that is used; the tables of a few
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

__all__ = ["DatasetOrder", "DatasetPosition", "Draw", "PhaseWalk", "Pool"]

Ints = NDArray[np.int64]

NUM_EPOCHS_KEPT = 4
NUM_POOLS_KEPT = 256
MAX_POOL_SHARDS_KEPT = 1 << 18
"""Limits the pools that are kept where a group is the whole dataset: 4 MB of tables, or the last two pools."""


@dataclass(frozen=True)
class EpochCut:
    """One epoch of a dataset cut into windows of one shape, summed up by group."""

    first_window: Ints
    """Windows of the epoch before each group, shape (groups + 1,)."""
    first_token: Ints
    """Tokens of the epoch before each group, shape (groups + 1,)."""


@dataclass(frozen=True)
class Pool:
    """The windows of one group as one phase draws them: those of whole shards, or those that an earlier pool left."""

    size: int
    """Windows of the pool."""
    geometry: BagGeometry
    """Shape of its windows."""
    key: Key
    """Key of the order in which they are drawn."""
    shard_first_window: Ints | None = None
    """Pool of whole shards: windows before each shard of the group, shape (shards + 1,)."""
    shard_first_token: Ints | None = None
    """Pool of whole shards: first token of each shard of the group in the token stream, shape (shards,)."""
    parent: Pool | None = None
    """Pool of leftovers: the pool that an earlier phase began."""
    parent_drawn: int = 0
    """Pool of leftovers: how many of the parent's windows were drawn."""
    cuts: int = 1
    """Pool of leftovers: into how many windows each of the parent's windows is cut."""
    num_phases: int = 1
    """Phases that draw from the group up to this one. Finding a window costs one bijection for each."""

    def first_tokens(self, ordinals: Ints) -> Ints:
        """First token in the token stream of windows drawn from this pool; ordinal 0 is drawn first."""
        pool, within = self, np.zeros_like(ordinals)
        # A window of leftovers is one cut of a window of the parent, which comes after those the parent has drawn. The
        # parent may be a pool of leftovers too: go up to the pool of whole shards, and add up the places of the cuts.
        while pool.parent is not None:
            parent_ordinals, cut = np.divmod(permute(ordinals, pool.size, pool.key), pool.cuts)
            within += cut * pool.geometry.advance
            pool, ordinals = pool.parent, pool.parent_drawn + parent_ordinals
        assert pool.shard_first_window is not None
        assert pool.shard_first_token is not None
        # The windows of whole shards are numbered shard after shard.
        drawn = permute(ordinals, pool.size, pool.key)
        shard = np.searchsorted(pool.shard_first_window, drawn, side="right") - 1
        in_shard = (drawn - pool.shard_first_window[shard]) * pool.geometry.advance
        first_tokens: Ints = pool.shard_first_token[shard] + in_shard + within
        return first_tokens


@dataclass(frozen=True)
class DatasetPosition:
    """A place between two windows of a dataset: what is drawn, and what comes next."""

    epoch: int = 0
    """Epoch of the next window."""
    group: int = 0
    """First group of the epoch that was not begun."""
    pool: Pool | None = None
    """Pool of the group that was begun and still has windows, if there is one."""
    drawn: int = 0
    """How many windows of that pool are drawn."""


class DatasetOrder:
    """The keyed order of one dataset's shards: what all phases of a run share.

    `shard_tokens` holds the tokens of each shard in stream order. `dataset` is the index in the run, `shuffle_group`
    the largest number of shards of a group, or None for all of them. The groups of an epoch are equal to within one
    shard: 65 shards at 64 give groups of 32 and 33, because a last group of one would not be shuffled at all.
    """

    def __init__(self, shard_tokens: Ints, *, seed: int, dataset: int, shuffle_group: int | None) -> None:
        self.shard_tokens = shard_tokens
        self.shard_first_token = np.cumsum(shard_tokens) - shard_tokens
        self.num_tokens = int(shard_tokens.sum())
        self.seed = seed
        self.dataset = dataset
        self.num_groups = -(-len(shard_tokens) // (shuffle_group or len(shard_tokens)))
        self.group_begins = np.arange(self.num_groups + 1) * len(shard_tokens) // self.num_groups
        """Shards of an epoch before each group, shape (groups + 1,)."""
        self.shards_of_epoch = lru_cache(maxsize=NUM_EPOCHS_KEPT)(self._shards_of_epoch)
        self.cut_epoch = lru_cache(maxsize=NUM_EPOCHS_KEPT)(self._cut_epoch)
        num_pools_kept = max(2, min(NUM_POOLS_KEPT, MAX_POOL_SHARDS_KEPT * self.num_groups // len(shard_tokens)))
        self.pool = lru_cache(maxsize=num_pools_kept)(self._pool)

    def key(self, purpose: str, epoch: int, phase: int = 0, group: int = 0) -> Key:
        return derive_key(purpose, seed=self.seed, dataset=self.dataset, epoch=epoch, phase=phase, index=group)

    def _shards_of_epoch(self, epoch: int) -> Ints:
        num_shards = len(self.shard_tokens)
        return permute(np.arange(num_shards), num_shards, self.key("shards", epoch))

    def _cut_epoch(self, epoch: int, geometry: BagGeometry) -> EpochCut:
        tokens = self.shard_tokens[self.shards_of_epoch(epoch)]
        begins = self.group_begins[:-1]
        return EpochCut(
            first_window=_sums_before(np.add.reduceat(geometry.num_windows(tokens), begins)),
            first_token=_sums_before(np.add.reduceat(tokens, begins)),
        )

    def _pool(self, epoch: int, group: int, phase: int, geometry: BagGeometry) -> Pool:
        """All windows of a group, cut from whole shards."""
        shards = self.shards_of_epoch(epoch)[self.group_begins[group] : self.group_begins[group + 1]]
        first_window = _sums_before(geometry.num_windows(self.shard_tokens[shards]))
        return Pool(
            size=int(first_window[-1]),
            geometry=geometry,
            key=self.key("windows", epoch, phase, group),
            shard_first_window=first_window,
            shard_first_token=self.shard_first_token[shards],
        )


@dataclass(frozen=True)
class Draw:
    """Some windows of one pool, in the order in which they are drawn."""

    epoch: int
    """Epoch of the windows."""
    group: int
    """Their group in the epoch."""
    pool: Pool
    """The pool that they are drawn from."""
    first_ordinal: int
    """How many windows of the pool are drawn before them."""
    count: int
    """Number of windows."""


class PhaseWalk:
    """One dataset's windows in one phase, counted from the beginning of the phase: window k -> first token.

    `start` is where the phases before stopped in the dataset.
    """

    def __init__(self, order: DatasetOrder, *, phase: int, geometry: BagGeometry, start: DatasetPosition) -> None:
        self.order = order
        self.phase = phase
        self.geometry = geometry
        self.start = start
        self._leftovers = self._cut_leftovers()
        self._in_leftovers = self._leftovers.size if self._leftovers else 0
        cut = order.cut_epoch(start.epoch, geometry)
        self.windows_per_epoch = int(cut.first_window[-1])
        self._before_start = int(cut.first_window[start.group])
        self._in_first_epoch = self._in_leftovers + self.windows_per_epoch - self._before_start

    def _cut_leftovers(self) -> Pool | None:
        """The begun group as this phase draws it: its windows that are left, cut into windows of this phase."""
        begun = self.start.pool
        if begun is None:
            return None
        A, a = begun.geometry.advance, begun.geometry.lookahead
        # The cuts must fit into the window with their lookahead, and their inputs into its inputs: the tokens after
        # those are inputs of another window. A lookahead longer than the whole window leaves room for less than none.
        cuts = max(0, min(A, A + a - self.geometry.lookahead) // self.geometry.advance)
        return Pool(
            size=(begun.size - self.start.drawn) * cuts,
            geometry=self.geometry,
            key=self.order.key("leftovers", self.start.epoch, self.phase, self.start.group - 1),
            parent=begun,
            parent_drawn=self.start.drawn,
            cuts=cuts,
            num_phases=begun.num_phases + 1,
        )

    def first_tokens(self, first_window: int, num_windows: int) -> Ints:
        """First tokens of this dataset's windows from `first_window` of this phase on, shape (num_windows,)."""
        parts = [
            draw.pool.first_tokens(np.arange(draw.first_ordinal, draw.first_ordinal + draw.count))
            for draw in self.draws(first_window, num_windows)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def draws(self, first_window: int, num_windows: int) -> Iterator[Draw]:
        """The pools that these windows come from, in order."""
        end = first_window + num_windows
        while first_window < end:
            draw = self._draw(first_window, end - first_window)
            yield draw
            first_window += draw.count

    def _draw(self, window: int, limit: int) -> Draw:
        """The windows from `window` on that one pool holds, at most `limit` of them."""
        # 1. First come the leftovers of the group that an earlier phase began.
        if window < self._in_leftovers:
            assert self._leftovers is not None
            count = min(limit, self._in_leftovers - window)
            return Draw(self.start.epoch, self.start.group - 1, self._leftovers, window, count)
        # 2. Then the groups of the same epoch that are not begun. Windows are numbered through the whole epoch as this
        #    phase would cut it, so those of the groups before count too.
        if window < self._in_first_epoch:
            epoch, in_epoch = self.start.epoch, window - self._in_leftovers + self._before_start
        # 3. Then whole epochs.
        else:
            epochs, in_epoch = divmod(window - self._in_first_epoch, self.windows_per_epoch)
            epoch = self.start.epoch + 1 + epochs
        # 4. The group that holds the window, and the window's place in it.
        cut = self.order.cut_epoch(epoch, self.geometry)
        group = int(np.searchsorted(cut.first_window, in_epoch, side="right")) - 1
        pool = self.order.pool(epoch, group, self.phase, self.geometry)
        ordinal = in_epoch - int(cut.first_window[group])
        return Draw(epoch, group, pool, ordinal, min(limit, pool.size - ordinal))

    def position_after(self, num_windows: int) -> DatasetPosition:
        """The position when `num_windows` are drawn; a phase that draws none does not change it."""
        if num_windows == 0:
            return self.start
        last = self._draw(num_windows - 1, 1)
        drawn = last.first_ordinal + 1
        if drawn < last.pool.size:
            return DatasetPosition(last.epoch, last.group + 1, last.pool, drawn)
        if last.group + 1 == self.order.num_groups:
            return DatasetPosition(last.epoch + 1)
        return DatasetPosition(last.epoch, last.group + 1)

    @property
    def phases_in_first_group(self) -> int:
        """Phases that draw from the group of this phase's first window, up to this one."""
        return self._leftovers.num_phases if self._leftovers and self._in_leftovers else 1

    def passed_over_at_switch(self) -> int:
        """Tokens of the begun group that do not divide into this phase's windows, if it draws any."""
        begun = self.start.pool
        if begun is None or self._leftovers is None:
            return 0
        used = self._leftovers.cuts * self.geometry.advance
        return (begun.size - self.start.drawn) * (begun.geometry.advance - used)

    def passed_over_at_ends(self, num_windows: int) -> tuple[int, int]:
        """Tokens skipped at the ends of shards in the groups that this phase begins, and all tokens of those groups.

        `num_windows` are the windows that the phase draws.
        """
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

    def _ends_before(self, position: DatasetPosition) -> tuple[int, int]:
        """The same for the groups of the position's epoch that come before it."""
        cut = self.order.cut_epoch(position.epoch, self.geometry)
        tokens = int(cut.first_token[position.group])
        return tokens - int(cut.first_window[position.group]) * self.geometry.advance, tokens


def _sums_before(counts: Ints) -> Ints:
    sums = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=sums[1:])
    return sums
