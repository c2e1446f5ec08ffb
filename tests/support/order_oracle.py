"""The plan's rules a second time: what every step of a run holds, with plain lists and one window after another.

Written from docs/concepts/pure-batches.md#the-rules-of-the-plan alone. Of `tst_data` it uses nothing but the keyed
bijection, so a defect in cutting, grouping, counting or mixing cannot be in both. It is slow: it lists every window of
every group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from tst_data.plan.permutation import Key, derive_key, permute

__all__ = ["Oracle", "Read", "Use"]

PATTERN = 1000


@dataclass(frozen=True)
class Read:
    """One window that a run reads."""

    step: int
    phase: int
    dataset: int
    epoch: int
    first_token: int
    advance: int

    @property
    def row(self) -> tuple[int, int]:
        """What a step says of it."""
        return self.dataset, self.first_token

    @property
    def inputs(self) -> range:
        """The tokens that it reads as input."""
        return range(self.first_token, self.first_token + self.advance)


@dataclass
class Use:
    """What one phase did with one dataset."""

    first_epoch: float = 0.0
    last_epoch: float = 0.0
    windows: int = 0
    begun: int = 0
    skipped_at_ends: int = 0
    skipped_at_switch: int = 0
    repeated: bool = False


@dataclass(frozen=True)
class Phase:
    """A phase of the run file, with its defaults filled in."""

    number: int
    steps: int
    batch_size: int
    advance: int
    lookahead: int
    weights: tuple[float, ...]

    @staticmethod
    def of(run: dict[str, Any], number: int) -> Phase:
        phase = run["phases"][number]
        bag_size, superpose = phase["bag_size"], phase.get("superpose", "both")
        length = phase.get("sequence_length") or run["sequence_length"]
        weights = phase.get("weights")
        if weights is None:
            weights = [dataset.get("weight", 1.0) for dataset in run["datasets"]]
        return Phase(
            number=number,
            steps=phase["steps"],
            batch_size=phase.get("batch_size") or run["batch_size"],
            advance=length if superpose == "output" else bag_size * length,
            lookahead=bag_size if superpose == "output" else 1,
            weights=tuple(weights),
        )


def shuffled(items: Sequence[Any], key: Key) -> list[Any]:
    """The items in the order of the bijection: the one that comes first has the image of 0."""
    return [items[image] for image in permute(np.arange(len(items)), len(items), key).tolist()]


def thousandths(weights: tuple[float, ...]) -> list[int]:
    """Largest remainder: whole parts first, then one more for those that lost most, the earlier dataset first."""
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * PATTERN / total for weight in weights]
    counts = [share.numerator // share.denominator for share in exact]
    while sum(counts) < PATTERN:
        lost = [share - count for share, count in zip(exact, counts, strict=True)]
        counts[lost.index(max(lost))] += 1
    return counts


@cache
def pattern(weights: tuple[float, ...]) -> list[int]:
    """The dataset of each of 1,000 windows.

    n of them have a share of the windows. Such a dataset may come at a place when it is at least 1/(2n - 2) of a window
    behind its share of that place. Of those, the next is the one that must come soonest to stay within its share.
    """
    shares = [Fraction(count, PATTERN) for count in thousandths(weights)]
    slack = Fraction(1, max(1, 2 * len([share for share in shares if share]) - 2))
    taken = [0] * len(shares)
    places = []
    for place in range(1, PATTERN + 1):
        best = None
        for dataset, share in enumerate(shares):
            if share and share * place - taken[dataset] >= slack:
                deadline = (taken[dataset] + 1 - slack) / share
                if best is None or deadline < best[0]:
                    best = deadline, dataset
        assert best is not None
        taken[best[1]] += 1
        places.append(best[1])
    return places


@dataclass
class Place:
    """Where a run is in one dataset: the windows that are left of the begun group, and the groups to come."""

    shards: list[int]
    """Tokens of each shard."""
    seed: int
    dataset: int
    group_size: int
    epoch: int = -1
    groups: list[list[int]] = field(default_factory=list)
    begun: int = 0
    """Groups of the epoch that were begun."""
    left: list[int] = field(default_factory=list)
    """First tokens of the begun group's windows that are not drawn, in the order in which they come."""
    advance: int = 0
    lookahead: int = 0

    def __post_init__(self) -> None:
        self.begin_epoch()

    def key(self, purpose: str, phase: int = 0, group: int = 0) -> Key:
        return derive_key(purpose, seed=self.seed, dataset=self.dataset, epoch=self.epoch, phase=phase, index=group)

    def begin_epoch(self) -> None:
        self.epoch += 1
        line = shuffled(range(len(self.shards)), self.key("shards"))
        number = -(-len(line) // self.group_size)
        borders = [len(line) * group // number for group in range(number + 1)]
        self.groups = [line[begin:end] for begin, end in pairwise(borders)]
        self.begun = 0

    def begin_group(self, phase: Phase, use: Use) -> None:
        """Cut the next group into windows of the phase."""
        self.left = []
        for shard in self.groups[self.begun]:
            start, end = sum(self.shards[:shard]), sum(self.shards[: shard + 1])
            first = start
            while first + phase.advance + phase.lookahead <= end:
                self.left.append(first)
                first += phase.advance
            use.skipped_at_ends += end - first
            use.begun += end - start
        self.left = shuffled(self.left, self.key("windows", phase.number, self.begun))
        self.begun += 1
        self.advance, self.lookahead = phase.advance, phase.lookahead

    def cut_again(self, phase: Phase, use: Use) -> None:
        """Cut what an earlier phase left of its group."""
        pieces: list[int] = []
        for old in self.left:
            first, kept = old, []
            while (
                first + phase.advance <= old + self.advance
                and first + phase.advance + phase.lookahead <= old + self.advance + self.lookahead
            ):
                kept.append(first)
                first += phase.advance
            use.skipped_at_switch += old + self.advance - first
            pieces += kept
        self.left = shuffled(pieces, self.key("leftovers", phase.number, self.begun - 1))
        self.advance, self.lookahead = phase.advance, phase.lookahead

    def draw(self, phase: Phase, use: Use) -> tuple[int, int]:
        """Epoch and first token of the next window."""
        if use.windows == 0:
            use.first_epoch = self.position
            self.cut_again(phase, use)
        while not self.left:
            if self.begun == len(self.groups):
                self.begin_epoch()
            self.begin_group(phase, use)
        use.windows += 1
        use.repeated |= self.epoch > 0
        drawn = self.epoch, self.left.pop(0)
        use.last_epoch = self.position
        return drawn

    @property
    def position(self) -> float:
        """Epochs up to here. What is skipped counts like what is read."""
        if not self.left and self.begun == len(self.groups):
            return self.epoch + 1.0
        done = sum(self.shards[shard] for group in self.groups[: self.begun] for shard in group)
        return self.epoch + (done - len(self.left) * self.advance) / sum(self.shards)


class Oracle:
    """The whole of a run, from the content of its run file and the tokens of each shard of each dataset."""

    def __init__(self, run: dict[str, Any], shards: Sequence[Sequence[int]]) -> None:
        self.phases = [Phase.of(run, number) for number in range(len(run["phases"]))]
        self.uses: dict[tuple[int, int], Use] = {}
        """By phase and dataset; only where the phase draws from it."""
        self.steps: list[list[Read]] = []
        """The windows of every step in row order."""
        group, seed = run.get("shuffle_group", 64), run.get("seed", 0)
        places = [
            Place([int(tokens) for tokens in each], seed, number, len(each) if group == "all" else group)
            for number, each in enumerate(shards)
        ]
        for phase in self.phases:
            datasets = pattern(phase.weights)
            for step in range(phase.steps):
                reads = []
                for row in range(phase.batch_size):
                    dataset = datasets[(step * phase.batch_size + row) % PATTERN]
                    use = self.uses.setdefault((phase.number, dataset), Use())
                    epoch, first = places[dataset].draw(phase, use)
                    reads.append(Read(len(self.steps), phase.number, dataset, epoch, first, phase.advance))
                self.steps.append(shuffled(reads, derive_key("rows", seed=seed, phase=phase.number, index=step)))

    @property
    def reads(self) -> list[Read]:
        """All windows of the run."""
        return [read for step in self.steps for read in step]

    @cached_property
    def inputs(self) -> dict[tuple[int, int], Counter[int]]:
        """How often each token is an input, by dataset and epoch."""
        seen: dict[tuple[int, int], Counter[int]] = {}
        for read in self.reads:
            seen.setdefault((read.dataset, read.epoch), Counter()).update(read.inputs)
        return seen

    def rows(self, step: int) -> list[tuple[int, int]]:
        """Dataset and first token of each window of a step."""
        return [read.row for read in self.steps[step]]
