"""From nothing to runs that can be trained: corpus, datasets, and a number of steps that fits the time.

The tokenizer is trained in a small conversion of its own and reused: byte-level BPE training is serial, and for 1,024
ids 6 MB of text say as much as 110 (on two cores that takes 5 seconds in place of 60).
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
from benchmarks.demo.metrics_tail import MetricsTail
from benchmarks.demo.processes import Child, Children, DemoError, all_ended
from benchmarks.demo.serving import start_server
from benchmarks.demo.settings import BASELINE, TST, DemoSettings, Places, steps_within, write_files
from tst_data.dataset.manifest import Manifest, load_manifest
from tst_data.inspection.plan_report import report_plan
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run

__all__ = ["calibrate", "convert_corpus", "plan_runs"]

CORPUS_FILE = "corpus.json"
POLL_SECONDS = 0.1
CALIBRATION_DEADLINE_SECONDS = 120.0
SKIPPED_STEPS = 10
"""Of a calibration: the first steps of a process are slower."""


def convert_corpus(
    output: Path, settings: DemoSettings, children: Children, display: Display
) -> tuple[Split, dict[str, Any]]:
    """`data/training` and `data/held-out` in the output folder -> the packages, and the facts for the report.

    Datasets of an earlier demo are used again when they are of the very same files.
    """
    display.title("Corpus: Python sources of the standard library and of the installed packages")
    split = split_packages(
        find_packages(), training_bytes=settings.training_bytes, held_out_bytes=settings.held_out_bytes
    )
    display.say(
        f"to train on: {len(split.training)} packages, {split.training_bytes / 1e6:,.1f} MB; held out: "
        f"{len(split.held_out)} packages, {split.held_out_bytes / 1e6:,.1f} MB; not needed: {len(split.left_out)}"
    )
    display.say(f"held out, by a hash of the name: {_names(split.held_out)}")
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
    """Show how far the conversions are until all have ended."""
    while not all_ended(conversions):
        for child in conversions:
            if not child.ended:
                line = (child.news() or ["starting"])[-1]
                share = re.search(r"(\d+)%", line)
                display.show(child.name, int(share[1]) if share else 0, 100, line, counted=False)
        time.sleep(POLL_SECONDS)
    display.clear()


def calibrate(
    output: Path, settings: DemoSettings, num_tokens: int, children: Children, display: Display
) -> tuple[Places, dict[str, Any]]:
    """How many steps fit: both trainers side by side for some seconds, over HTTP, as they will be."""
    display.title("Calibration: how long a step takes here, both trainers side by side")
    folder = output / "calibration"
    folder.mkdir()
    possible = steps_within(1e9, superposed_step=1e-3, plain_step=1e-3, num_tokens=num_tokens, settings=settings)
    if possible < settings.min_steps // 200 * 200 or possible == 0:
        raise DemoError(f"{num_tokens:,} tokens are too few for {settings.min_steps} steps without reading one twice")
    write_files(folder, Places.of(possible, settings), settings, data="../data", evaluated=False)
    server = start_server("calibration-server", folder, children)
    trainers = {}
    for name in (TST, BASELINE):
        run = (server.url(name), "--config", folder / "training.yaml", "--output", folder / name)
        trainers[name] = children.start(f"calibration-{name}", "trainer_client.cli", *run)
    try:
        times = _step_times(folder, settings, trainers, display)
    finally:
        for trainer in trainers.values():
            trainer.kill()
        server.child.stop()
    shutil.rmtree(folder)
    left = settings.total_seconds - display.seconds - settings.finish_seconds - settings.overhead_seconds
    steps = steps_within(
        left, superposed_step=times[TST], plain_step=times[BASELINE], num_tokens=num_tokens, settings=settings
    )
    display.say(
        f"a step takes {times[TST] * 1e3:.1f} ms with bags and {times[BASELINE] * 1e3:.1f} ms without: {steps:,} steps "
        f"fit into the {max(left, 0):.0f} seconds that training has"
    )
    figures = {"superposed_step_seconds": times[TST], "plain_step_seconds": times[BASELINE], "training_seconds": left}
    return Places.of(steps, settings), figures


def _step_times(folder: Path, settings: DemoSettings, trainers: dict[str, Child], display: Display) -> dict[str, float]:
    """Seconds a step of each trainer, from when both are at work."""
    tails = {name: MetricsTail(folder / name / "metrics.jsonl") for name in trainers}
    deadline = time.monotonic() + CALIBRATION_DEADLINE_SECONDS
    first: dict[str, tuple[float, int]] = {}
    begin = None
    while begin is None or time.monotonic() < begin + settings.calibration_seconds:
        for name, tail in tails.items():
            tail.read()
            if trainers[name].check():
                raise DemoError(f"the calibration of {name} ended before it was stopped (see '{trainers[name].log}')")
        if begin is None and all(tail.next_step > SKIPPED_STEPS for tail in tails.values()):
            begin = time.monotonic()
            first = {name: (begin, tail.next_step) for name, tail in tails.items()}
        worked = 0.0 if begin is None else time.monotonic() - begin
        steps = ", ".join(f"{name} at step {tail.next_step}" for name, tail in tails.items())
        display.show("calibration", worked, settings.calibration_seconds, steps, counted=False)
        if time.monotonic() > deadline:
            raise DemoError(
                f"no {SKIPPED_STEPS} steps within {CALIBRATION_DEADLINE_SECONDS:.0f} s; see the logs in "
                f"'{trainers[TST].log.parent}'"
            )
        time.sleep(POLL_SECONDS)
    now = time.monotonic()
    return {name: (now - first[name][0]) / max(1, tail.next_step - first[name][1]) for name, tail in tails.items()}


def plan_runs(output: Path, places: Places, settings: DemoSettings, display: Display) -> None:
    """Write the runs and the training configuration, and see that no token is read twice."""
    write_files(output, places, settings, data="data")
    for name in (TST, BASELINE):
        with Plan(load_run(output / f"{name}.yaml")) as plan:
            report = report_plan(plan, step_seconds=1.0)
        if any("repeated" in warning for warning in report.warnings):
            raise DemoError(f"run {name} would read tokens twice: {report.warnings[0]}")
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
    """What identifies the datasets: the sources in order, every file with its size, and the tokenizer's options."""
    content = {
        "training": [[str(package.path), package.files] for package in split.training],
        "held_out": held_out_sources(split.held_out),
        "tokenizer": [settings.vocabulary_size, settings.tokenizer_bytes],
    }
    return json.dumps(content)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
