"""Where a stream's windows come from: a server's URL, a run file, or a materialised folder; one behaviour.

A source knows the run's description and opens readers; a reader turns (step, rank, world size) into windows.
Each background thread has a reader of its own (over HTTP, that is a connection of its own), so readers need no
locks. `open_source` tells the three kinds apart and imports only the one that is used: a trainer that reads over
HTTP never loads the dataset reader.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from tst_data.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from tst_data.contract.batch import WindowBatch
    from tst_data.contract.description import RunDescription

__all__ = ["Reader", "Received", "Source", "host_tensor", "open_source"]


@dataclass(frozen=True)
class Received:
    """Windows as they came: the verified batch, its windows as a tensor in host memory, and bytes transferred."""

    batch: WindowBatch
    windows: torch.Tensor
    num_bytes: int


class Reader(Protocol):
    """Reads batches one after another; used by one thread, save for `abort`."""

    def read(self, step: int, rank: int, world_size: int) -> Received:
        """The verified windows of one rank of a step. Raises a TSTError that names step and source."""
        ...

    def abort(self) -> None:
        """Cut off a read that is under way in another thread."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """A run that can be read."""

    location: str
    """How messages and logs name it; holds no secret."""

    description: RunDescription

    max_readers: int
    """Readers that may be at work at once."""

    @property
    def num_retries(self) -> int:
        """Reads that were tried again so far, over all readers."""
        ...

    def open_reader(self) -> Reader: ...

    def close(self) -> None: ...


def open_source(
    source: str | os.PathLike[str], *, token: str | None, timeout_seconds: float, pin_memory: bool
) -> Source:
    """The source that a URL, run file or materialised folder stands for.

    Raises InvalidInputError where it is none of these, NotFoundError where there is nothing at that path.
    """
    if not isinstance(source, str | os.PathLike):
        raise InvalidInputError(
            f"source is {source!r}; expected a run's URL, a run file or a materialised folder, as text or path"
        )
    text = os.fspath(source)
    scheme, separator, _ = text.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        from trainer_client.stream.http_source import HttpSource

        return HttpSource(text, token=token, timeout_seconds=timeout_seconds, pin_memory=pin_memory)
    if separator:
        raise InvalidInputError(
            f"source {text!r} has the unknown scheme {scheme!r}; expected http:// or https://, "
            "or the path of a run file or materialised folder"
        )
    path = Path(text)
    if not path.exists():
        raise NotFoundError(
            f"source {text!r} does not exist; expected a run's URL (http://host:port/v1/runs/NAME), "
            "a run file or a materialised folder"
        )
    if path.is_dir():
        if not (path / "run.json").is_file():
            raise InvalidInputError(
                f"folder {text!r} holds no run.json; expected a folder made by `tst-data materialize`, "
                "a run file or a run's URL"
            )
        from trainer_client.stream.local_source import FolderSource

        return FolderSource(path, pin_memory=pin_memory)
    from trainer_client.stream.local_source import RunSource

    return RunSource(path, pin_memory=pin_memory)


def host_tensor(batch: WindowBatch, pin_memory: bool) -> torch.Tensor:
    """The batch's windows (b, A + a) as a tensor: the same memory where it may be written, else a copy."""
    windows = batch.windows if batch.windows.flags.writeable else batch.windows.copy()
    tensor = torch.from_numpy(windows)
    return tensor.pin_memory() if pin_memory else tensor
