"""The run file: a run specification as YAML or JSON, and the folder that its dataset paths start from."""

from __future__ import annotations

from pathlib import Path

from tst_data.configuration import load_model, parse_model
from tst_data.errors import InvalidInputError
from tst_data.run.specification import RunSpecification

__all__ = ["Run", "load_run", "parse_run"]

KEYS = "the keys name, datasets, sequence_length, batch_size and phases"


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
    return Run(load_model(path, RunSpecification, place="run file", keys=KEYS), path.parent)


def parse_run(text: str, folder: Path) -> Run:
    """The run that the text of a run file describes; relative dataset paths start from `folder`."""
    return Run(parse_model(text, RunSpecification, keys=KEYS), folder)
