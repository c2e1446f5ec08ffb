"""What a run is: everything that determines every batch, checked as far as it can be without the data.

The canonical form has every default filled in and is itself a run file. The fingerprint hashes what determines the
batches: the canonical form without the run's name, with the datasets' fingerprints instead of their paths, and with the
weights as the thousandths that the mixture uses. `contract/identity` defines it, for the first steps of a run too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from tst_data.configuration import Frozen
from tst_data.contract.bags import BagGeometry, Superpose
from tst_data.contract.description import ORDER_VERSION
from tst_data.contract.identity import batches_fingerprint
from tst_data.errors import InvalidInputError
from tst_data.run.weights import thousandths

__all__ = ["DatasetReference", "Phase", "RunSpecification"]

MAX_WINDOW_TOKENS = 1 << 30
"""A longer window is a typing error: one row of a batch would take 2 GB or more."""

MAX_RUN_TOKENS = 1 << 60
"""Input tokens of a whole run. No run comes near it, and all counts stay within 64 bits."""

MAX_BATCH_SIZE = 1 << 22
"""Sequences of a step. The windows of a whole step are computed at once; 4 million take about a second and 200 MB."""

MAX_STEP_TOKENS = 1 << 32
"""Tokens of the windows of one step: 8 or 16 GB, which one process can still hold."""

NAME_PATTERN = "^[a-z0-9][a-z0-9._-]*$"


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN.removesuffix("$"), name):
        raise ValueError(
            "expected lower-case letters, digits, '.', '_' and '-', with a letter or digit first, as in wiki-s4"
        )
    return name


Name = Annotated[str, Field(max_length=64, json_schema_extra={"pattern": NAME_PATTERN}), AfterValidator(_check_name)]
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 62)]
BatchSize = Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH_SIZE)]
Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class DatasetReference(Frozen):
    """A dataset of the run and its weight in phases that do not set their own."""

    path: Annotated[str, Field(min_length=1)]
    """Folder of the dataset, relative to the run file."""
    weight: Weight = 1.0
    """Share of the windows relative to the other datasets, in phases without `weights`."""
    revision: str | None = None
    """Fingerprint that the dataset must have; the run is refused otherwise."""


class Phase(Frozen):
    """A bag size, a number of steps, and what is superposed; the rest is taken from the run where it is left out."""

    bag_size: Count
    """Tokens that are read or predicted at one latent position (s); 1 is ordinary next-token training."""
    steps: Count
    """Optimizer steps of the phase."""
    superpose: Superpose = "both"
    """What is superposed: `both` inputs and targets (the paper's TST), only the `input`, or only the `output`."""
    batch_size: BatchSize | None = None
    """Sequences of a step in this phase, over all ranks; that of the run by default."""
    sequence_length: Count | None = None
    """Latent positions of a sequence in this phase; that of the run by default."""
    weights: tuple[Weight, ...] | None = None
    """Weights of the datasets in this phase, in their order, 0 for none; those of the datasets by default."""


class RunSpecification(Frozen):
    """A run as its file says it, checked for everything that can be checked without the data."""

    name: Name
    """Name of the run, part of its URL. Lower-case letters, digits, `.`, `_` and `-`."""
    datasets: Annotated[tuple[DatasetReference, ...], Field(min_length=1, max_length=1 << 16)]
    """The datasets, each once. Their order is part of the run's identity."""
    sequence_length: Count
    """Latent positions of a sequence (L). A window holds `bag_size` times as many tokens, and those of its targets."""
    batch_size: BatchSize
    """Sequences of an optimizer step over all ranks (B)."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 64)] = 0
    """Seed of the order in which windows are drawn."""
    shuffle_group: Count | Literal["all"] = 64
    """Shards that are shuffled together, at most, or `all`: groups of an epoch are equal to within one shard. More
    shuffle better and keep more shards in use at once."""
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    """The phases in order. Steps count from 0 through all of them."""

    @field_validator("shuffle_group", mode="before")
    @classmethod
    def _check_shuffle_group(cls, value: Any) -> Any:
        if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise ValueError("expected a whole number of shards, at least 1, or 'all'")

    @model_validator(mode="after")
    def _check_phases(self) -> RunSpecification:
        run_tokens = 0
        for index, phase in enumerate(self.phases):
            place = f"'phases.{index}'"
            self._check_weights(index, place)
            window_length = self.geometry(index).window_length
            if window_length > MAX_WINDOW_TOKENS:
                raise ValueError(
                    f"{place}: windows of {window_length:,} tokens, expected at most {MAX_WINDOW_TOKENS:,}; lower "
                    "bag_size or sequence_length"
                )
            step_tokens = self.phase_batch_size(index) * window_length
            if step_tokens > MAX_STEP_TOKENS:
                raise ValueError(
                    f"{place}: a step has {step_tokens:,} tokens in its windows, expected at most "
                    f"{MAX_STEP_TOKENS:,}; lower batch_size, bag_size or sequence_length"
                )
            run_tokens += self.phase_batch_size(index) * phase.steps * self.geometry(index).advance
            if run_tokens > MAX_RUN_TOKENS:
                raise ValueError(
                    f"{place}: up to its end the run reads {run_tokens:,} tokens, expected at most {MAX_RUN_TOKENS:,}; "
                    "lower steps or batch_size"
                )
        return self

    def _check_weights(self, index: int, place: str) -> None:
        given = self.phases[index].weights
        if given is not None and len(given) != len(self.datasets):
            raise ValueError(
                f"{place}: {len(given)} weights for {len(self.datasets)} datasets; give one weight for each dataset, 0 "
                "for none"
            )
        weights = self.phase_weights(index)
        if sum(weights) == 0:
            raise ValueError(f"{place}: no dataset has a positive weight; raise at least one")
        if not sum(weights) < float("inf"):
            raise ValueError(f"{place}: the sum of the weights is not a finite number; scale them down")
        try:
            thousandths(weights)
        except InvalidInputError as error:
            raise ValueError(f"{place}: {error}") from None

    def phase_weights(self, index: int) -> tuple[float, ...]:
        """The weights of one phase, in dataset order."""
        weights = self.phases[index].weights
        return weights if weights is not None else tuple(dataset.weight for dataset in self.datasets)

    def phase_batch_size(self, index: int) -> int:
        """Sequences a step of one phase, over all ranks (B)."""
        return self.phases[index].batch_size or self.batch_size

    def geometry(self, index: int) -> BagGeometry:
        """The window shape of one phase."""
        phase = self.phases[index]
        return BagGeometry(
            bag_size=phase.bag_size,
            sequence_length=phase.sequence_length or self.sequence_length,
            superpose=phase.superpose,
        )

    def canonical(self) -> dict[str, Any]:
        """The run with every default filled in: a run file that means the same."""
        datasets = []
        for dataset in self.datasets:
            datasets.append(dataset.model_dump(exclude_none=True))
        phases = []
        for index, phase in enumerate(self.phases):
            geometry = self.geometry(index)
            phases.append(
                {
                    "bag_size": phase.bag_size,
                    "steps": phase.steps,
                    "superpose": phase.superpose,
                    "batch_size": self.phase_batch_size(index),
                    "sequence_length": geometry.sequence_length,
                    "weights": list(self.phase_weights(index)),
                }
            )
        return {
            "name": self.name,
            "datasets": datasets,
            "sequence_length": self.sequence_length,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle_group": self.shuffle_group,
            "phases": phases,
        }

    def fingerprint(self, dataset_fingerprints: Sequence[str]) -> str:
        """SHA-256 (64 hex digits) of what determines every batch, over these datasets in order."""
        return self._fingerprint(dataset_fingerprints, None)

    def prefix_fingerprint(self, dataset_fingerprints: Sequence[str], num_steps: int) -> str:
        """The same of what determines the first `num_steps` batches: runs in which it is equal share them."""
        return self._fingerprint(dataset_fingerprints, num_steps)

    def _fingerprint(self, dataset_fingerprints: Sequence[str], num_steps: int | None) -> str:
        phases = self.canonical()["phases"]
        for index, phase in enumerate(phases):
            phase["weights"] = list(thousandths(self.phase_weights(index)))
        return batches_fingerprint(
            order_version=ORDER_VERSION,
            datasets=dataset_fingerprints,
            seed=self.seed,
            shuffle_group=self.shuffle_group,
            phases=phases,
            num_steps=num_steps,
        )
