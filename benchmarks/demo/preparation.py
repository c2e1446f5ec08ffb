"""From nothing to runs that can be trained: corpus, datasets, run files.

The tokenizer is trained first, in a small conversion, and then used for both datasets. Byte-level BPE training uses one
core, and for 1,024 ids 6 MB of text are as good as 110 MB (5 seconds instead of 60).
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.demo.corpus import Package, Split, find_packages, held_out_sources, split_packages
from benchmarks.demo.display import Display
from benchmarks.demo.processes import Child, Children, DemoError, all_ended
from benchmarks.demo.settings import DemoSettings, write_files
from tst_data.dataset.manifest import Manifest, load_manifest
from tst_data.inspection.plan_report import report_plan
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run

__all__ = ["convert_corpus", "plan_runs"]

CORPUS_FILE = "corpus.json"
POLL_SECONDS = 0.1


def convert_corpus(
    output: Path, settings: DemoSettings, children: Children, display: Display
) -> tuple[Split, dict[str, Any]]:
    """Make `data/training` and `data/held-out` in the output folder -> the packages, and the facts for the report.

    Datasets of an earlier demo are used again when they were made from exactly the same files.
    """
    display.title("Corpus: Python source of the standard library and of the installed packages")
    split = split_packages(
        find_packages(), training_bytes=settings.training_bytes, held_out_bytes=settings.held_out_bytes
    )
    display.say(
        f"to train on: {len(split.training)} packages, {split.training_bytes / 1e6:,.1f} MB; held out: "
        f"{len(split.held_out)} packages, {split.held_out_bytes / 1e6:,.1f} MB; not needed: {len(split.left_out)}"
    )
    display.say(f"held out (chosen by a hash of the name): {_names(split.held_out)}")
    data = output / "data"
    listing = _listing(split, settings)
    if _read(data / CORPUS_FILE) != listing:
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        (data / CORPUS_FILE).write_text(listing, encoding="utf-8")
    begin = display.seconds
    training, held_out = _convert(data, split, settings, children, display)
    facts = {
        "training": _facts(split.training, training),
        "held_out": _facts(split.held_out, held_out),
        "vocabulary_size": training.vocabulary_size,
        "seconds": display.seconds - begin,
    }
    return split, facts


def _convert(
    data: Path, split: Split, settings: DemoSettings, children: Children, display: Display
) -> tuple[Manifest, Manifest]:
    sample: list[Package] = []
    for package in split.training:
        if package.size_bytes + sum(other.size_bytes for other in sample) <= settings.tokenizer_bytes:
            sample.append(package)
    common = ("--include", "*.py", "--skip-invalid")
    tokenizer = ("--tokenizer", f"train:{settings.vocabulary_size}", "--workers", 1)
    _wait(
        [_start(children, "tokenizer", _paths(sample), *tokenizer, *common, "--out", data / "tokenizer")],
        display,
    )
    trained = ("--tokenizer", data / "tokenizer" / "tokenizer.json", *common)
    held_out = held_out_sources(split.held_out)
    _wait(
        [
            _start(children, "training", _paths(split.training), *trained, "--workers", 2, "--out", data / "training"),
            _start(children, "held-out", held_out, *trained, "--workers", 1, "--out", data / "held-out"),
        ],
        display,
    )
    manifests = load_manifest(data / "training"), load_manifest(data / "held-out")
    for name, manifest in zip(("training", "held-out"), manifests, strict=True):
        display.say(
            f"data/{name}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens, "
            f"{manifest.num_shards} shards, vocabulary {manifest.vocabulary_size:,}"
        )
    return manifests


def _start(children: Children, name: str, sources: Sequence[str], *options: object) -> Child:
    return children.start(f"convert-{name}", "tst_data.cli", "convert", *sources, *options)


def _wait(conversions: list[Child], display: Display) -> None:
    """Show the progress of the conversions until all have ended."""
    while not all_ended(conversions):
        for child in conversions:
            if not child.ended:
                line = (child.news() or ["starting"])[-1]
                share = re.search(r"(\d+)%", line)
                display.show(child.name, int(share[1]) if share else 0, 100, line, counted=False)
        time.sleep(POLL_SECONDS)
    display.clear()


def plan_runs(output: Path, settings: DemoSettings, display: Display) -> None:
    """Write the run files and the training configuration. Raises DemoError where a run would read a token twice."""
    write_files(output, settings)
    for name in settings.runs:
        with Plan(load_run(output / f"{name}.yaml")) as plan:
            report = report_plan(plan, step_seconds=1.0)
        for warning in report.warnings:
            if "repeated" in warning:
                raise DemoError(f"run {name}: {warning}; install more packages, so that there is more text")
        display.say(
            f"{name}.yaml: {report.total_steps:,} steps, {report.total_latent_positions:,} latent positions, "
            f"{report.total_tokens:,} raw tokens, each read once"
        )


def _paths(packages: Sequence[Package]) -> list[str]:
    return [str(package.path) for package in packages]


def _names(packages: Sequence[Package], shown: int = 12) -> str:
    names = [package.name for package in sorted(packages, key=lambda package: -package.size_bytes)]
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _facts(packages: Sequence[Package], manifest: Manifest) -> dict[str, Any]:
    return {
        "packages": [package.name for package in packages],
        "bytes": sum(package.size_bytes for package in packages),
        "documents": manifest.num_documents,
        "tokens": manifest.num_tokens,
        "fingerprint": manifest.fingerprint,
    }


def _listing(split: Split, settings: DemoSettings) -> str:
    """What identifies the datasets: the sources in order, each file with its size, and the tokenizer's options."""
    content = {
        "training": [[str(package.path), package.files] for package in split.training],
        "held_out": held_out_sources(split.held_out),
        "tokenizer": [settings.vocabulary_size, settings.tokenizer_bytes],
    }
    return json.dumps(content)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
