"""Documents from datasets of the `datasets` library: saved with `save_to_disk`, or named on the Hugging Face Hub.

Both become memory-mapped Arrow tables. A Hub dataset is not streamed but first downloaded to the library's own cache:
that costs disk space, and a conversion that was interrupted continues from a local file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tst_data.errors import InvalidInputError
from tst_data.sources.columnar import check_type, documents_of_batches
from tst_data.sources.document import ReadOptions, SourceDocument, check_columns
from tst_data.stores.hub import hub_is_reachable

__all__ = ["HUB_PREFIX", "HubDataset", "is_saved_dataset"]

HUB_PREFIX = "hf://"

_BATCH_ROWS = 256


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    saved = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return saved or (folder / "dataset_dict.json").is_file()


@dataclass
class HubDataset:
    """One split of a dataset, opened when it is first needed."""

    name: str
    """The folder or address as it was given; it is in the document index."""
    load: Callable[[], Any]
    """Opens the dataset with the library."""
    advice: str
    """What to do where it cannot be loaded, for messages."""
    size_bytes: int = 0
    """Size of its Arrow files, 0 until it is known."""
    bytes_read: int = field(default=0, compare=False)
    _table: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def saved(cls, folder: Path) -> HubDataset:
        """A folder written by `save_to_disk`."""

        def load() -> Any:
            import datasets

            return datasets.load_from_disk(str(folder))

        size_bytes = sum(file.stat().st_size for file in folder.glob("*.arrow"))
        advice = "save it again with `save_to_disk`, or give its .arrow files"
        return cls(name=folder.as_posix(), load=load, advice=advice, size_bytes=size_bytes)

    @classmethod
    def on_hub(cls, source: str) -> HubDataset:
        """`hf://owner/name[:split]`; without a split it is `train`."""
        address, _, split = source.removeprefix(HUB_PREFIX).partition(":")
        if not address or address.count("/") > 1:
            raise InvalidInputError(
                f"{source}: is not the address of a dataset; give {HUB_PREFIX}owner/name or "
                f"{HUB_PREFIX}owner/name:split"
            )

        def load() -> Any:
            import datasets

            with _cache_only() if not hub_is_reachable() else nullcontext():
                return datasets.load_dataset(address, split=split or "train")

        return cls(name=source, load=load, advice="check name, split and network")

    @property
    def identity(self) -> str:
        return f"{self.name}\0{self._opened()._fingerprint}"

    def read(self, options: ReadOptions, start_row: int = 0) -> Iterator[SourceDocument]:
        """The documents in order, from row `start_row`."""
        dataset = self._opened()
        check_columns(self.name, dataset.column_names, options)
        check_type(self.name, options.column, dataset.features.arrow_schema.field(options.column).type)
        rows = dataset.select_columns(options.columns).with_format("arrow")
        num_rows = len(rows)

        def batches() -> Iterator[tuple[Any, int]]:
            for first in range(start_row, num_rows, _BATCH_ROWS):
                table = rows[first : first + _BATCH_ROWS]
                yield table, table.num_rows
                self.bytes_read = int(self.size_bytes * min(1.0, (first + _BATCH_ROWS) / num_rows))

        yield from documents_of_batches(self.name, batches(), options, start_row, first_row=start_row)
        self.bytes_read = self.size_bytes

    def _opened(self) -> Any:
        if self._table is None:
            try:
                self._table = self.load()
            except ImportError as error:
                raise InvalidInputError(
                    f"{self.name}: needs the library `datasets`; install the extra `convert`"
                ) from error
            except Exception as error:  # the library also raises the errors of its storage and network layers
                reason = " ".join(str(error).split())
                raise InvalidInputError(
                    f"{self.name}: the dataset cannot be loaded ({reason[:300]}); {self.advice}"
                ) from error
            if isinstance(self._table, dict):
                splits = ", ".join(self._table)
                raise InvalidInputError(f"{self.name}: holds the splits {splits}; give one of them ({self.name}/SPLIT)")
            self.size_bytes = self.size_bytes or int(self._table.data.nbytes)
        return self._table


@contextmanager
def _cache_only() -> Iterator[None]:
    """Keep `datasets` from asking the Hub: it finds what it has downloaded before, or fails at once."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
