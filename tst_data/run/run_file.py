"""The run file: a run specification as YAML or JSON, and the folder that its dataset paths start from."""

from __future__ import annotations

from pathlib import Path

from tst_data.configuration import load_model, parse_model
from tst_data.errors import InvalidInputError
from tst_data.given_files import expanded_path
from tst_data.run.specification import RunSpecification

__all__ = ["Run", "load_run", "parse_run"]

KEYS = "the keys name, datasets, sequence_length, batch_size and phases"
PLACE = "run file"


class Run:
    """A run specification and the folder that its relative dataset paths start from.

    `path` is the run file, for messages; None for a run that was not read from a file.
    """

    def __init__(self, specification: RunSpecification, folder: Path, path: Path | None = None) -> None:
        self.specification = specification
        self.folder = folder
        self.path = path

    @property
    def name(self) -> str:
        return self.specification.name

    @property
    def place(self) -> str:
        """The run as messages begin with it: its file, or its name where it has no file."""
        return f"run '{self.name}'" if self.path is None else f"{PLACE} '{self.path}'"

    def dataset_paths(self) -> tuple[Path, ...]:
        """Where the datasets are, in dataset order. Raises InvalidInputError for a path that is not a folder's."""
        return tuple(self._resolve(number, each.path) for number, each in enumerate(self.specification.datasets))

    def _resolve(self, number: int, path: str) -> Path:
        if "://" in path:
            raise InvalidInputError(
                f"{self.place}: 'datasets.{number}.path': '{path}' is in an object store, which cannot be read yet; "
                "copy the dataset to a local folder and give that"
            )
        return self.folder / expanded_path(path, f"{self.place}: 'datasets.{number}.path'")


def load_run(path: str | Path) -> Run:
    """Read a run file: JSON where its name ends in `.json` or its text is JSON, else YAML.

    Raises NotFoundError where there is no such file, InvalidInputError where it is not a run; both name the file.
    """
    path = Path(path)
    return Run(load_model(path, RunSpecification, place=PLACE, keys=KEYS), path.parent, path)


def parse_run(text: str, folder: Path) -> Run:
    """The run that the text of a run file describes; relative dataset paths start from `folder`."""
    return Run(parse_model(text, RunSpecification, keys=KEYS), folder)
