"""The run file: everything that determines every batch, in one small YAML or JSON file.

The canonical form has every default filled in and is itself a run file. The fingerprint hashes what determines the
batches: the canonical form less the run's name and the datasets' paths, with the datasets' fingerprints in their
place and the weights as the thousandths that the mixture uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tst_data.contract.bags import BagGeometry, Superpose
from tst_data.errors import InvalidInputError, NotFoundError, validation_message
from tst_data.plan.mixture import thousandths
from tst_data.plan.permutation import ORDER_VERSION

__all__ = ["DatasetReference", "Phase", "Run", "RunSpecification", "load_run", "load_yaml", "parse_run"]

MAX_WINDOW_TOKENS = 1 << 30
"""A window beyond this is a slip of the pen: one batch row of 2 GB or more."""

MAX_RUN_TOKENS = 1 << 60
"""Input tokens of a whole run; far beyond any, and everything counted stays within 64 bits."""

Count = Annotated[int, Field(strict=True, ge=1, le=1 << 62)]
Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetReference(_Frozen):
    """A dataset of the run and its weight in phases that do not set their own."""

    path: Annotated[str, Field(min_length=1)]
    weight: Weight = 1.0
    revision: str | None = None


class Phase(_Frozen):
    """A bag size, a number of steps, and what is superposed; what is None is taken from the run."""

    bag_size: Count
    steps: Count
    superpose: Superpose = "both"
    batch_size: Count | None = None
    sequence_length: Count | None = None
    weights: tuple[Weight, ...] | None = None


class RunSpecification(_Frozen):
    """A run as its file says it, checked for everything that can be checked without the data."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
    datasets: Annotated[tuple[DatasetReference, ...], Field(min_length=1, max_length=1 << 16)]
    sequence_length: Count
    batch_size: Count
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 64)] = 0
    shuffle_group: Count | Literal["all"] = 64
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]

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
            given = phase.weights
            if given is not None and len(given) != len(self.datasets):
                raise ValueError(
                    f"phase {index} gives {len(given)} weights for {len(self.datasets)} datasets; "
                    "give one weight for each, 0 for none"
                )
            weights = self.phase_weights(index)
            if sum(weights) == 0:
                raise ValueError(f"phase {index} has no dataset with a positive weight; raise at least one")
            if not sum(weights) < float("inf"):
                raise ValueError(f"phase {index} has weights whose sum is not a finite number; scale them down")
            thousandths(weights)
            window_length = self.geometry(index).window_length
            if window_length > MAX_WINDOW_TOKENS:
                raise ValueError(
                    f"phase {index} has windows of {window_length:,} tokens; at most {MAX_WINDOW_TOKENS:,} are "
                    "possible: lower bag_size or sequence_length"
                )
            run_tokens += self.phase_batch_size(index) * phase.steps * self.geometry(index).advance
            if run_tokens > MAX_RUN_TOKENS:
                raise ValueError(
                    f"up to phase {index} the run reads {run_tokens:,} tokens; at most {MAX_RUN_TOKENS:,} are "
                    "possible: lower steps or batch_size"
                )
        return self

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
        phases = self.canonical()["phases"]
        for index, phase in enumerate(phases):
            phase["weights"] = list(thousandths(self.phase_weights(index)))
        identity = {
            "order_version": ORDER_VERSION,
            "datasets": list(dataset_fingerprints),
            "seed": self.seed,
            "shuffle_group": self.shuffle_group,
            "phases": phases,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Run:
    """A run specification and the folder that its relative dataset paths start from."""

    def __init__(self, specification: RunSpecification, folder: Path) -> None:
        self.specification = specification
        self.folder = folder

    @property
    def name(self) -> str:
        return self.specification.name

    def dataset_paths(self) -> tuple[Path, ...]:
        """Where the datasets lie, in dataset order."""
        return tuple(self._resolve(dataset.path) for dataset in self.specification.datasets)

    def _resolve(self, path: str) -> Path:
        if "://" in path:
            raise InvalidInputError(
                f"run '{self.name}': dataset path '{path}' names an object store, which cannot be read yet; copy the "
                "dataset to a local folder and name that"
            )
        return self.folder / Path(path).expanduser()


def load_run(path: str | Path) -> Run:
    """Read a run file (YAML, or JSON, which is YAML too).

    Raises NotFoundError where there is no such file, InvalidInputError where it is not a run; both name the file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"run file '{path}' does not exist; give the path of a YAML or JSON run file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"run file '{path}' cannot be read as UTF-8 text: {error}") from None
    try:
        return parse_run(text, path.parent)
    except InvalidInputError as error:
        raise InvalidInputError(f"run file '{path}': {error}") from None


def parse_run(text: str, folder: Path) -> Run:
    """The run that a YAML or JSON text describes; relative dataset paths start from `folder`."""
    content = load_yaml(text)
    if not isinstance(content, dict):
        raise InvalidInputError(
            "expected the keys name, datasets, sequence_length, batch_size and phases, "
            f"found {'nothing' if content is None else type(content).__name__}"
        )
    try:
        return Run(RunSpecification.model_validate(content), folder)
    except ValidationError as error:
        raise InvalidInputError(validation_message(error)) from None


def load_yaml(text: str) -> Any:
    """The value of a YAML or JSON text. Raises InvalidInputError, also for a key that stands twice."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader
    except RecursionError:
        raise InvalidInputError("not valid YAML or JSON: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that cannot be
        raise InvalidInputError(f"not valid YAML or JSON: {' '.join(str(error).split())}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing; a run must not be read that way."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)
