"""Conversion: documents to datasets, once, whatever bag size and batch size are tried later.

The parent reads documents in order, sends their text to worker processes and appends what comes back to the dataset
being written, or to the validation dataset beside it: a keyed hash of a document's text decides, so the same text
is never in both. What comes out depends on the sources, the tokenizer and the options, and on nothing else; not on
the number of workers, nor on how often the conversion was interrupted. After an interruption documents that are
wholly in finished shards are passed over: whole files unopened, rows unparsed where the format allows it, and
nothing is tokenised twice but the last unfinished shard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from pydantic import Field

from tst_data.configuration import Frozen
from tst_data.conversion.local_engine import BATCH_BYTES, EncodingPool
from tst_data.conversion.output import END, Output, Place
from tst_data.conversion.staging import Staging, is_vacant, staging_folder
from tst_data.dataset.manifest import Manifest, dtype_for, is_finished, load_manifest
from tst_data.dataset.reader import open_dataset
from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.sources.document import ReadOptions, SourceDocument
from tst_data.sources.parts import SourcePart, find_sources, sources_digest
from tst_data.stores.destination import refuse_inside_sources, writing_to
from tst_data.streaming_compat import import_streaming
from tst_data.tokenizer.loading import Tokenizer, load_saved_tokenizer, load_tokenizer, split_training_size
from tst_data.tokenizer.training import sampled, train_tokenizer

__all__ = ["Conversion", "ConversionProgress", "ConversionReport", "convert", "in_validation", "validation_path"]

_VALIDATION_SEED = 0x7661_6C69_6461_7465
"""Key of the hash that chooses validation documents. Part of the promise that the same text falls the same way."""


class Conversion(Frozen):
    """Everything that determines the result of a conversion."""

    sources: tuple[str, ...]
    tokenizer: str
    end_of_text: str | None = None
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    column: str = "text"
    id_column: str | None = None
    lines: bool = False
    include: tuple[str, ...] = ()
    skip_invalid: bool = False
    shard_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class ConversionProgress:
    """How far a conversion is. `seconds`, `encoded_tokens` and `encoded_bytes` count since this process began."""

    stage: str
    documents: int = 0
    tokens: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    seconds: float = 0.0
    encoded_tokens: int = 0
    encoded_bytes: int = 0


class ConversionReport(Frozen):
    """What a conversion made. Rates are those of the process that ended it."""

    path: str
    fingerprint: str
    documents: int
    tokens: int
    shards: int
    seconds: float
    tokens_per_second: float
    passed_over: int = 0
    already_done: bool = False
    validation: ConversionReport | None = None


def validation_path(destination: Path) -> Path:
    """Where the validation documents of a dataset go."""
    return destination.with_name(f"{destination.name}-validation")


def in_validation(content: bytes, share: float) -> bool:
    """Whether a document with this text (UTF-8), or these ids (little-endian int64), is one for validation."""
    return xxhash.xxh3_64_intdigest(content, seed=_VALIDATION_SEED) < share * 2.0**64


def convert(
    conversion: Conversion,
    destination: Path,
    *,
    num_workers: int,
    restart: bool = False,
    report: Callable[[ConversionProgress], None] | None = None,
) -> ConversionReport:
    """Make the dataset at `destination`, going on with an interrupted attempt where there is one.

    Raises InvalidInputError or NotFoundError for input that cannot be converted; nothing is left behind then; and
    TSTError where the destination cannot be written.
    After any other end the same call goes on. Where the same conversion is finished already nothing is done.
    """
    if num_workers < 1:
        raise InvalidInputError(f"{num_workers} workers cannot encode; give a number from 1")
    if not destination.name:
        raise InvalidInputError(f"destination '{destination}': expected the path of a folder to make")
    destination = destination.absolute()
    training_size = split_training_size(conversion.tokenizer)
    refuse_inside_sources(destination, conversion.sources)
    parts = find_sources(conversion.sources, conversion.include)
    request = conversion.model_dump(mode="json") | {"source_digest": sources_digest(parts)}
    with writing_to(destination):
        done = _finished_before(destination, request)
        if done is not None:
            return done
        tokenizer = None
        if training_size is None:
            tokenizer = load_tokenizer(conversion.tokenizer, conversion.end_of_text)
            request["tokenizer_hash"] = tokenizer.hash
        with Staging(destination, request, restart=restart) as staging:
            run = _Run(conversion, destination, staging, parts, report or (lambda progress: None))
            try:
                if not staging.is_complete:
                    run.write(tokenizer or run.trained_tokenizer(training_size or 0), request, num_workers)
            except (InvalidInputError, NotFoundError):
                staging.remove()
                raise
            staging.complete(run.destinations)
    return run.final_report()


@dataclass
class _Batch:
    """Documents on their way to a writer: `tokens` are ready-made ids, in place of one of `texts`."""

    documents: list[tuple[Output, str, SourceDocument]] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    bytes_done: int = 0

    def add(self, output: Output, source: str, document: SourceDocument) -> None:
        self.documents.append((output, source, document))
        if document.text is not None:
            self.texts.append(document.text)
            self.size_bytes += len(document.text) + 64
        elif document.tokens is not None:
            self.size_bytes += document.tokens.nbytes + 64

    def place(self, text: int) -> str:
        """Source and row of one of `texts`."""
        with_text = (place for place in self.documents if place[2].text is not None)
        _, source, document = next(islice(with_text, text, None))
        return f"{source}: row {document.row}"


class _Run:
    """One process's work on one conversion."""

    def __init__(
        self,
        conversion: Conversion,
        destination: Path,
        staging: Staging,
        parts: Sequence[SourcePart],
        report: Callable[[ConversionProgress], None],
    ) -> None:
        self._conversion = conversion
        self._staging = staging
        self._parts = parts
        self._report = report
        self._bytes_total = sum(part.size_bytes for part in parts)
        self._began = time.monotonic()
        self._passed_over = 0
        self._encoded_tokens = 0
        self.destinations: dict[str, Path] = {}
        if conversion.validation:  # the training dataset is renamed last: where it stands, all stands
            self.destinations["validation"] = validation_path(destination)
        self.destinations["training"] = destination

    def trained_tokenizer(self, vocabulary_size: int) -> Tokenizer:
        """The tokenizer trained on the training documents, or the one an earlier attempt trained."""
        folder = self._staging.tokenizer_folder
        try:
            return load_saved_tokenizer(folder)
        except NotFoundError:
            pass
        texts = sampled(self._training_texts(), self._bytes_total)
        tokenizer = train_tokenizer(texts, vocabulary_size)
        self._passed_over = 0
        self._began = time.monotonic()
        return tokenizer

    def write(self, tokenizer: Tokenizer, request: Mapping[str, Any], num_workers: int) -> None:
        """Write all datasets, from where an earlier attempt stopped."""
        self._staging.tokenizer_folder.mkdir(exist_ok=True)
        tokenizer.save(self._staging.tokenizer_folder)
        options = {**request, "tokenizer_hash": tokenizer.hash}
        with ExitStack() as stack:
            outputs = [
                stack.enter_context(
                    Output(
                        self._staging.folder / name,
                        split=name,
                        tokenizer=tokenizer,
                        shard_tokens=self._conversion.shard_tokens,
                        options=options,
                        source_names=[part.name for part in self._parts],
                    )
                )
                for name in reversed(self.destinations)
            ]
            pool = EncodingPool(self._staging.tokenizer_folder, dtype_for(tokenizer.vocabulary_size), num_workers)
            with pool:
                self._convert_documents(outputs, pool, tokenizer)
            self._refuse_changed_sources(request)
            self._refuse_empty(outputs)
            self._report(self._progress("finishing", outputs, self._bytes_total))
            made = {"tool": _tool(), **options}
            for output in outputs:
                output.finish(made)

    def final_report(self) -> ConversionReport:
        seconds = time.monotonic() - self._began
        reports = {
            name: _report_of(load_manifest(path), path, seconds, self._encoded_tokens / max(seconds, 1e-9))
            for name, path in self.destinations.items()
        }
        return reports["training"].model_copy(
            update={"validation": reports.get("validation"), "passed_over": self._passed_over}
        )

    def _convert_documents(self, outputs: Sequence[Output], pool: EncodingPool, tokenizer: Tokenizer) -> None:
        self._report(self._progress("converting", outputs, 0))
        with ExitStack() as stack:
            for number, (batch, encoded) in enumerate(pool.encode(self._batches(outputs))):
                texts = iter(encoded)
                for output, source, document in batch.documents:
                    tokens = next(texts) if document.tokens is None else _closed(document.tokens, tokenizer)
                    output.append(tokens, source, document)
                    self._encoded_tokens += len(tokens)
                self._report(self._progress("converting", outputs, batch.bytes_done))
                if number == 1:  # more than a batch: the first shard is seconds away, and the workers have enough to do
                    preparing = threading.Thread(target=_import_writing_library)
                    preparing.start()
                    stack.callback(preparing.join)  # no import may be under way while the interpreter exits

    def _batches(self, outputs: Sequence[Output]) -> Iterator[_Batch]:
        """Documents that are not yet written, in batches of about BATCH_BYTES."""
        batch = _Batch()
        start = min(output.start for output in outputs)
        bytes_done = sum(part.size_bytes for part in self._parts[: start.part])
        for number in range(start.part, len(self._parts)):
            part = self._parts[number]
            first_row = start.row if number == start.part else 0
            for document in part.read(self._read_options(), first_row):
                output = outputs[-1] if self._is_validation(document) else outputs[0]
                if Place(number, document.row) >= output.start:
                    batch.add(output, part.name, document)
                if batch.size_bytes >= BATCH_BYTES:
                    batch.bytes_done = bytes_done + part.bytes_read
                    yield batch
                    batch = _Batch()
            bytes_done += part.size_bytes
        if batch.documents:
            batch.bytes_done = bytes_done
            yield batch

    def _training_texts(self) -> Iterator[bytes]:
        bytes_done = 0
        reported = 0
        for part in self._parts:
            for document in part.read(self._read_options()):
                if document.text is None:
                    raise InvalidInputError(
                        f"{part.name}: row {document.row} holds token ids, and train: needs text; name the tokenizer "
                        "that made them"
                    )
                if not self._is_validation(document):
                    yield document.text
                if bytes_done + part.bytes_read >= reported + BATCH_BYTES:
                    reported = bytes_done + part.bytes_read
                    self._report(
                        ConversionProgress(
                            stage="training the tokenizer", bytes_done=reported, bytes_total=self._bytes_total
                        )
                    )
            bytes_done += part.size_bytes

    def _is_validation(self, document: SourceDocument) -> bool:
        if not self._conversion.validation:
            return False
        tokens = document.tokens
        content = document.text if tokens is None else tokens.astype("<i8", copy=False).tobytes()
        return in_validation(content or b"", self._conversion.validation)

    def _read_options(self) -> ReadOptions:
        return ReadOptions(
            column=self._conversion.column,
            id_column=self._conversion.id_column,
            lines=self._conversion.lines,
            passed_over=self._pass_over if self._conversion.skip_invalid else None,
        )

    def _pass_over(self, message: str) -> None:
        self._passed_over += 1

    def _progress(self, stage: str, outputs: Sequence[Output], bytes_done: int) -> ConversionProgress:
        start = min(output.start for output in outputs)
        skipped = self._bytes_total if start == END else sum(part.size_bytes for part in self._parts[: start.part])
        return ConversionProgress(
            stage=stage,
            documents=sum(output.num_documents for output in outputs),
            tokens=sum(output.num_tokens for output in outputs),
            bytes_done=bytes_done,
            bytes_total=self._bytes_total,
            seconds=time.monotonic() - self._began,
            encoded_tokens=self._encoded_tokens,
            encoded_bytes=max(0, bytes_done - skipped),
        )

    def _refuse_changed_sources(self, request: Mapping[str, Any]) -> None:
        if sources_digest(find_sources(self._conversion.sources, self._conversion.include)) != request["source_digest"]:
            raise InvalidInputError(
                "the source files changed while they were converted; convert again when they are at rest"
            )

    def _refuse_empty(self, outputs: Sequence[Output]) -> None:
        names = ", ".join(self._conversion.sources[:3])
        if not any(output.num_documents for output in outputs):
            raise InvalidInputError(f"{names}: no documents; give sources that hold at least one")
        if all(output.num_tokens == output.num_documents for output in outputs):
            raise InvalidInputError(
                f"{names}: every document is empty, so there is nothing but end-of-text to train on; check the files, "
                f"--column ('{self._conversion.column}' now) and the tokenizer"
            )
        for output in outputs:
            if output.num_tokens == output.num_documents:
                kind = "no document but empty ones" if output.num_documents else "no document"
                raise InvalidInputError(
                    f"--validation {self._conversion.validation:g}: leaves {kind} for {output.split}; "
                    "choose another share, or give more documents"
                )


def _import_writing_library() -> None:
    with suppress(Exception):  # said where a shard is written
        import_streaming()


def _tool() -> str:
    try:
        return f"tst-data {version('token-superposition')}"
    except PackageNotFoundError:  # used from a checkout
        return "tst-data"


def _closed(tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Ready-made ids with the closing end-of-text, which is not doubled where it is there already."""
    if len(tokens) and tokens[-1] == tokenizer.end_of_text_id:
        return tokens
    return np.append(tokens, np.int64(tokenizer.end_of_text_id))


def _finished_before(destination: Path, request: Mapping[str, Any]) -> ConversionReport | None:
    """The report on a destination that holds this very conversion, None where it is free for one.

    Raises InvalidInputError where it holds anything else.
    """
    if not is_vacant(destination):
        made = load_manifest(destination).made if is_finished(destination) else {}
        if any(made.get(key) != value for key, value in request.items()):
            what = "another dataset" if made else "something else"
            raise InvalidInputError(f"{destination}: already holds {what}; choose another --out, or move it away")
        return _report_on_finished(destination, request)
    validation = validation_path(destination)
    if request["validation"] and not is_vacant(validation) and not staging_folder(destination).exists():
        raise InvalidInputError(
            f"{validation}: already holds something, and --validation would write there; choose another --out, or "
            "move it away"
        )
    return None


def _report_on_finished(destination: Path, request: Mapping[str, Any]) -> ConversionReport:
    if staging_folder(destination).exists():  # the end of the conversion was cut short
        with Staging(destination, request, restart=True) as staging:
            staging.remove()
    validation = None
    if request["validation"]:
        path = validation_path(destination)
        validation = _report_of(open_dataset(path).manifest, path, 0.0, 0.0)
    report = _report_of(open_dataset(destination).manifest, destination, 0.0, 0.0)
    return report.model_copy(update={"already_done": True, "validation": validation})


def _report_of(manifest: Manifest, path: Path, seconds: float, tokens_per_second: float) -> ConversionReport:
    return ConversionReport(
        path=str(path),
        fingerprint=manifest.fingerprint,
        documents=manifest.num_documents,
        tokens=manifest.num_tokens,
        shards=manifest.num_shards,
        seconds=seconds,
        tokens_per_second=tokens_per_second,
    )
