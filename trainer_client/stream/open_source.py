"""The source that a string or a path names: a server's URL, a run file, or a materialized folder.

Only the kind that is used is imported, so a trainer that reads over HTTP never loads the dataset reader.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tst_data.configuration import shown
from tst_data.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from trainer_client.stream.source import Source

__all__ = ["open_source"]


def open_source(
    source: str | os.PathLike[str], *, token: str | None, timeout_seconds: float, pin_memory: bool
) -> Source:
    """Open a run's URL, a run file or a materialized folder.

    Raises InvalidInputError where it is none of these, NotFoundError where nothing is at that path.
    """
    if not isinstance(source, str | os.PathLike):
        raise InvalidInputError(
            "source: expected a run's URL, a run file or a materialized folder, as a string or path "
            f"(given: {shown(source)})"
        )
    location = os.fspath(source)
    scheme, separator, _ = location.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        from trainer_client.stream.http_source import HttpSource

        return HttpSource(location, token=token, timeout_seconds=timeout_seconds, pin_memory=pin_memory)
    if separator:
        raise InvalidInputError(
            f"source {location!r}: unknown scheme {scheme!r}; give a URL with http:// or https://, "
            "or the path of a run file or materialized folder"
        )
    path = Path(location)
    if not path.exists():
        raise NotFoundError(
            f"source {location!r}: does not exist; give a run's URL (http://host:port/v1/runs/NAME), "
            "a run file or a materialized folder"
        )
    if not path.is_dir():
        from trainer_client.stream.local_source import RunSource

        return RunSource(path, timeout_seconds=timeout_seconds, pin_memory=pin_memory)
    if not (path / "run.json").is_file():
        raise InvalidInputError(
            f"source {location!r}: the folder has no run.json; give a folder that tst-data materialize made, "
            "a run file or a run's URL"
        )
    from trainer_client.stream.local_source import FolderSource

    return FolderSource(path, timeout_seconds=timeout_seconds, pin_memory=pin_memory)
