"""Conversion: documents to datasets, once, for every bag size and batch size that is tried later.

The parent reads documents in order, sends their texts to worker processes, and appends the token ids that come back to
the training or the validation dataset. The result depends on the sources, the tokenizer and the options, and on
nothing else: not on the number of workers, and not on how often the conversion was interrupted. After an interruption
only the last unfinished shard is tokenized again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.conversion.document_batches import DocumentReader
from tst_data.conversion.local_engine import EncodedText, EncodingPool
from tst_data.conversion.lost_characters import refuse_lost_characters
from tst_data.conversion.request import Conversion, ConversionProgress, ConversionReport
from tst_data.conversion.split_writer import END, SplitWriter, counts_of
from tst_data.conversion.splits import TRAINING, VALIDATION, split_destinations, validation_path
from tst_data.conversion.staging import Staging, staging_folder
from tst_data.dataset.manifest import Manifest, dtype_for, is_finished, load_manifest
from tst_data.dataset.reader import open_dataset
from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.sources.parts import SourcePart, find_sources, sources_digest
from tst_data.stores.destination import (
    is_vacant,
    making_parents,
    refuse_inside_sources,
    refuse_occupied,
    writing_to,
)
from tst_data.streaming_compat import import_streaming
from tst_data.tokenizer.base import Tokenizer
from tst_data.tokenizer.json_tokenizer import library_version
from tst_data.tokenizer.loading import load_saved_tokenizer, load_tokenizer, split_training_size
from tst_data.tokenizer.training import sampled, train_tokenizer

__all__ = ["convert"]

MAX_WORKERS = 1024
"""More encoding processes than any machine has cores: a larger number is a typing error."""


def convert(
    conversion: Conversion,
    destination: Path,
    *,
    num_workers: int,
    restart: bool = False,
    report: Callable[[ConversionProgress], None] | None = None,
) -> ConversionReport:
    """Make the dataset at `destination`, or continue an attempt that was interrupted (`restart` discards that one).

    Where the same conversion is finished already, nothing is done. Raises InvalidInputError or NotFoundError for input
    that cannot be converted, and leaves nothing on disk then. Raises TSTError where the destination cannot be written
    or an encoding process ends; after that, and after a kill, the same call continues.
    """
    if not 1 <= num_workers <= MAX_WORKERS:
        raise InvalidInputError(f"--workers {num_workers}: expected 1 to {MAX_WORKERS}; give one for each CPU core")
    if not destination.name:
        raise InvalidInputError(f"destination '{destination}': has no name; give the path of a folder to make")
    destination = destination.absolute()
    training_size = split_training_size(conversion.tokenizer)
    refuse_inside_sources(destination, conversion.sources)
    parts = find_sources(conversion.sources, conversion.include)
    request = conversion.identity() | {"source_digest": sources_digest(parts)}
    with writing_to(destination):
        done = _finished_before(destination, request, conversion)
        if done is not None:
            return done
        tokenizer = None
        if training_size is None:
            tokenizer = load_tokenizer(conversion.tokenizer, conversion.end_of_text)
            request["tokenizer_hash"] = tokenizer.hash
        # Versions of a library differ in the ids of some texts, so another one must not write the rest of a dataset.
        request["encoder"] = tokenizer.library if tokenizer is not None else library_version()
        with making_parents(destination), Staging(destination, request, restart=restart) as staging:
            attempt = _Attempt(conversion, destination, staging, parts, report or (lambda progress: None))
            try:
                if not staging.is_complete:
                    attempt.write(tokenizer or attempt.trained_tokenizer(training_size or 0), request, num_workers)
            except (InvalidInputError, NotFoundError):
                staging.remove()
                raise
            staging.complete(attempt.destinations)
    return attempt.final_report()


class _Attempt:
    """The work of one process on one conversion."""

    def __init__(
        self,
        conversion: Conversion,
        destination: Path,
        staging: Staging,
        parts: Sequence[SourcePart],
        report: Callable[[ConversionProgress], None],
    ) -> None:
        self.destinations = split_destinations(destination, conversion.validation)
        self._conversion = conversion
        self._staging = staging
        self._parts = parts
        self._reader = DocumentReader(conversion, parts)
        self._report = report
        self._bytes_total = sum(part.size_bytes for part in parts)
        self._began = time.monotonic()
        self._encoded_tokens = 0
        self._most_lost = 0
        self._worst_document = _names(conversion)

    def trained_tokenizer(self, vocabulary_size: int) -> Tokenizer:
        """The tokenizer trained on the training documents, or the one that an earlier attempt trained."""
        with suppress(NotFoundError):
            return load_saved_tokenizer(self._staging.tokenizer_folder)

        def report(bytes_done: int) -> None:
            stage = "training the tokenizer"
            self._report(ConversionProgress(stage=stage, bytes_done=bytes_done, bytes_total=self._bytes_total))

        texts = sampled(self._reader.training_texts(report), self._bytes_total)
        tokenizer = train_tokenizer(texts, vocabulary_size)
        self._reader.num_skipped = 0  # the same documents are read, and counted, once more
        self._began = time.monotonic()
        return tokenizer

    def write(self, tokenizer: Tokenizer, request: Mapping[str, Any], num_workers: int) -> None:
        """Write all datasets, from where an earlier attempt stopped."""
        self._staging.tokenizer_folder.mkdir(exist_ok=True)
        tokenizer.save(self._staging.tokenizer_folder)
        options = {**request, "tokenizer_hash": tokenizer.hash}
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(
                    SplitWriter(
                        self._staging.folder / split,
                        split=split,
                        tokenizer=tokenizer,
                        shard_tokens=self._conversion.shard_tokens,
                        options=options,
                        source_names=[part.name for part in self._parts],
                        count_file=self._staging.folder / f"{split}.characters",
                    )
                )
                for split in reversed(self.destinations)
            }
            pool = EncodingPool(self._staging.tokenizer_folder, dtype_for(tokenizer.vocabulary_size), num_workers)
            with pool:
                self._convert_documents(writers, pool, tokenizer)
            self._refuse_changed_sources(request)
            _refuse_empty(self._conversion, writers)
            self._refuse_lost(writers, at_end=True)
            self._report(self._progress("finishing", writers, self._bytes_total))
            made = {"tool": _tool(), **options}
            for writer in writers.values():
                writer.finish(made)

    def final_report(self) -> ConversionReport:
        seconds = time.monotonic() - self._began
        reports = {
            split: _report_on(load_manifest(path), path, seconds, self._encoded_tokens / max(seconds, 1e-9))
            for split, path in self.destinations.items()
        }
        return reports[TRAINING].model_copy(
            update={"validation": reports.get(VALIDATION), "passed_over": self._reader.num_skipped}
        )

    def _convert_documents(self, writers: Mapping[str, SplitWriter], pool: EncodingPool, tokenizer: Tokenizer) -> None:
        self._report(self._progress("converting", writers, 0))
        with ExitStack() as stack:
            for number, (batch, encoded) in enumerate(pool.encode(self._reader.batches(writers))):
                texts = iter(encoded)
                for writer, source, document in batch.documents:
                    text = next(texts) if document.tokens is None else _ready(document.tokens, tokenizer)
                    writer.append(text, source, document)
                    self._encoded_tokens += len(text.tokens)
                    if text.lost > self._most_lost:
                        self._most_lost, self._worst_document = text.lost, f"{source}: row {document.row}"
                self._refuse_lost(writers, at_end=False)
                self._report(self._progress("converting", writers, batch.bytes_done))
                if number == 1:  # more than a batch: the first shard is seconds away, and the workers have enough to do
                    preparing = threading.Thread(target=_import_writing_library)
                    preparing.start()
                    stack.callback(preparing.join)  # no import may be running while the interpreter exits

    def _progress(self, stage: str, writers: Mapping[str, SplitWriter], bytes_done: int) -> ConversionProgress:
        start = min(writer.start for writer in writers.values())
        bytes_skipped = self._bytes_total if start == END else self._reader.bytes_before(start)
        return ConversionProgress(
            stage=stage,
            documents=sum(writer.num_documents for writer in writers.values()),
            tokens=sum(writer.num_tokens for writer in writers.values()),
            bytes_done=bytes_done,
            bytes_total=self._bytes_total,
            seconds=time.monotonic() - self._began,
            encoded_tokens=self._encoded_tokens,
            encoded_bytes=max(0, bytes_done - bytes_skipped),
        )

    def _refuse_lost(self, writers: Mapping[str, SplitWriter], *, at_end: bool) -> None:
        refuse_lost_characters(
            self._conversion,
            [writer.counts for writer in writers.values()],
            example=self._worst_document,
            at_end=at_end,
            can_resume=any(writer.has_shards for writer in writers.values()),
        )

    def _refuse_changed_sources(self, request: Mapping[str, Any]) -> None:
        if sources_digest(find_sources(self._conversion.sources, self._conversion.include)) != request["source_digest"]:
            raise InvalidInputError(
                f"{_names(self._conversion)}: the source files changed while they were converted; convert again when "
                "nothing writes to them any more"
            )


def _refuse_empty(conversion: Conversion, writers: Mapping[str, SplitWriter]) -> None:
    """Refuse a conversion without documents, or with a split whose documents are all empty: only end-of-text."""
    if not any(writer.num_documents for writer in writers.values()):
        raise InvalidInputError(f"{_names(conversion)}: no documents; give sources that hold at least one")
    if all(writer.num_tokens == writer.num_documents for writer in writers.values()):
        raise InvalidInputError(
            f"{_names(conversion)}: every document is empty, so there is nothing but end-of-text to train on; check "
            f"the files, --column (now '{conversion.column}') and the tokenizer"
        )
    for writer in writers.values():
        if writer.num_tokens == writer.num_documents:
            kind = "only empty documents" if writer.num_documents else "no document"
            raise InvalidInputError(
                f"--validation {conversion.validation:g}: leaves {kind} for {writer.split}; choose another share, or "
                "give more documents"
            )


def _names(conversion: Conversion) -> str:
    return ", ".join(conversion.sources[:3])


def _import_writing_library() -> None:
    with suppress(Exception):  # raised again, with a message, where a shard is written
        import_streaming()


def _tool() -> str:
    try:
        return f"tst-data {version('token-superposition')}"
    except PackageNotFoundError:  # used from a checkout
        return "tst-data"


def _ready(tokens: NDArray[np.int64], tokenizer: Tokenizer) -> EncodedText:
    """Ready token ids with the closing end-of-text token, which is added only where it is missing."""
    if not len(tokens) or tokens[-1] != tokenizer.end_of_text_id:
        tokens = np.append(tokens, np.int64(tokenizer.end_of_text_id))
    return EncodedText(tokens, characters=0, lost=0)


def _finished_before(destination: Path, request: Mapping[str, Any], conversion: Conversion) -> ConversionReport | None:
    """The report on a destination that holds the result of this very conversion, None where it is free.

    The library that encodes may have another version now: what is finished stays finished, and the report names the
    version that made it. Raises InvalidInputError where the destination holds anything else.
    """
    if not is_vacant(destination):
        made = load_manifest(destination).made if is_finished(destination) else {}
        if any(made.get(key) != value for key, value in request.items()):
            refuse_occupied(destination, "another dataset" if made else "something else")
        return _report_on_finished(destination, request, conversion)
    validation = validation_path(destination)
    if request["validation"] and not is_vacant(validation) and not staging_folder(destination).exists():
        raise InvalidInputError(
            f"{validation}: already holds something, and --validation would write there; choose another --out, or "
            "move it away"
        )
    return None


def _report_on_finished(destination: Path, request: Mapping[str, Any], conversion: Conversion) -> ConversionReport:
    if staging_folder(destination).exists():  # the conversion was interrupted after its last rename
        with Staging(destination, request, restart=True) as staging:
            staging.remove()
    paths = split_destinations(destination, conversion.validation)
    manifests = {split: open_dataset(path).manifest for split, path in paths.items()}
    counts = [counts_of(manifest.made) for manifest in manifests.values()]
    refuse_lost_characters(conversion, counts, example=str(destination), at_end=True, can_resume=False)
    validation = None
    if VALIDATION in paths:
        validation = _report_on(manifests[VALIDATION], paths[VALIDATION])
    report = _report_on(manifests[TRAINING], destination)
    return report.model_copy(update={"already_done": True, "validation": validation})


def _report_on(
    manifest: Manifest, path: Path, seconds: float = 0.0, tokens_per_second: float = 0.0
) -> ConversionReport:
    return ConversionReport(
        path=str(path),
        fingerprint=manifest.fingerprint,
        documents=manifest.num_documents,
        tokens=manifest.num_tokens,
        shards=manifest.num_shards,
        seconds=seconds,
        tokens_per_second=tokens_per_second,
        characters=counts_of(manifest.made).characters,
        lost_characters=counts_of(manifest.made).lost,
        encoder=manifest.made.get("encoder"),
    )
