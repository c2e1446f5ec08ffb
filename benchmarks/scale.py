"""A run over 2 trillion tokens in 100,000 shards: opening it, and finding the windows of a step.

    python benchmarks/scale.py [--shards 100000] [--tokens-per-shard 20000000] [--repeat 3] [--json]

The shard table and the manifest are real and have full size (a hash for every MiB of every shard). The shard files are
sparse: they have the right length and hold only zeros. Opening is measured in a new process each time, from `load_run`
to an open `Plan`, without the imports; the resident memory is that of the whole process afterwards. Then a batch of
512 windows is located at the first, a middle and the last step, each in a new process: once as the first use of the
epoch, then warm over neighboring steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tst_data.dataset.folder import DatasetFolder
from tst_data.dataset.manifest import (
    FORMAT_VERSION,
    SHARD_TABLE_NAME,
    Manifest,
    TokenizerDescription,
    dataset_fingerprint,
    shard_file_name,
    write_manifest,
)
from tst_data.dataset.shard_table import PIECE_BYTES, ShardRecord, ShardTable, write_shard_table
from tst_data.durable_files import hash_file

HEADER_BYTES = 20_000
SAMPLE_TOKENS = 4096
VOCABULARY = 128_256
TARGETS = {"open_seconds": 1.0, "resident_megabytes": 300.0, "first_milliseconds": 50.0, "warm_milliseconds": 3.0}

MEASURE = """
import json, sys, time
from pathlib import Path
from tst_data import Plan, load_run

def resident_megabytes():
    return next(int(line.split()[1]) / 1000 for line in open("/proc/self/status") if line.startswith("VmRSS"))

imported = resident_megabytes()
began = time.perf_counter()
plan = Plan(load_run(Path(sys.argv[1])))
report = {"open_seconds": time.perf_counter() - began, "resident_megabytes": resident_megabytes(), "imported": imported}
step = int(float(sys.argv[2]) * (plan.num_steps - 1))

def locate(step):
    began = time.perf_counter()
    windows = plan.windows(step)
    assert len(windows.first_token) == 512
    return 1000 * (time.perf_counter() - began)

report["step"] = step
report["first_milliseconds"] = locate(step)
near = range(max(0, step - 50), min(plan.num_steps, step + 51))
warm = sorted(locate(other) for other in near)
report["warm_milliseconds"] = warm[len(warm) // 2]
report["warm_worst_milliseconds"] = warm[-1]
report["located_megabytes"] = resident_megabytes()
print(json.dumps(report))
"""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = prepare(folder, options.shards, options.tokens_per_shard)
        report: dict[str, Any] = {
            "shards": options.shards,
            "tokens": options.shards * options.tokens_per_shard,
            "table_megabytes": (folder / "dataset" / SHARD_TABLE_NAME).stat().st_size / 1e6,
            "steps": {},
        }
        for name, place in (("first", 0.0), ("middle", 0.5), ("last", 1.0)):
            report["steps"][name] = median([measure(run, place) for _ in range(options.repeat)])
    print(json.dumps(report, indent=2) if options.json else table(report))


def prepare(folder: Path, num_shards: int, shard_tokens: int) -> Path:
    """Write the dataset and a run over nearly all of it -> the run file."""
    dataset = folder / "dataset"
    dataset.mkdir()
    random = np.random.default_rng(5)
    num_bytes = HEADER_BYTES + 4 * shard_tokens

    def records() -> Iterator[ShardRecord]:
        for shard in range(num_shards):
            yield ShardRecord(
                file=shard_file_name(shard),
                samples=shard_tokens // SAMPLE_TOKENS,
                sample_tokens=SAMPLE_TOKENS,
                tokens=shard_tokens,
                num_bytes=num_bytes,
                token_offset=HEADER_BYTES,
                num_documents=1,
                hash=random.bytes(32),
                documents_hash=random.bytes(16),
                pieces=random.integers(0, 1 << 63, -(-num_bytes // PIECE_BYTES), dtype=np.uint64),
            )

    write_shard_table(dataset / SHARD_TABLE_NAME, records())
    for shard in range(num_shards):
        with (dataset / shard_file_name(shard)).open("wb") as file:
            file.truncate(num_bytes)
    shards = ShardTable(DatasetFolder(dataset))
    tokenizer = TokenizerDescription(name="ids", kind="ids", hash="0" * 64)
    fingerprint = dataset_fingerprint(
        tokenizer_hash=tokenizer.hash,
        end_of_text_id=VOCABULARY - 1,
        vocabulary_size=VOCABULARY,
        dtype="uint32",
        shard_tokens=shards.tokens,
        shard_hashes=shards.hashes,
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=fingerprint,
        tokenizer=tokenizer,
        end_of_text_id=VOCABULARY - 1,
        vocabulary_size=VOCABULARY,
        dtype="uint32",
        sample_tokens=SAMPLE_TOKENS,
        num_tokens=num_shards * shard_tokens,
        num_documents=num_shards,
        num_shards=num_shards,
        files={SHARD_TABLE_NAME: hash_file(dataset / SHARD_TABLE_NAME)},
    )
    write_manifest(dataset, manifest)
    return write_run(folder, num_shards * shard_tokens)


def write_run(folder: Path, num_tokens: int) -> Path:
    """Superposition over a third of the tokens, recovery over most of the rest: one epoch in two phases."""
    batch_size, length, bag = 512, 1024, 6
    first = num_tokens // 3 // (batch_size * length * bag)
    second = num_tokens * 6 // 10 // (batch_size * length)
    run = {
        "name": "scale",
        "datasets": [{"path": "dataset"}],
        "sequence_length": length,
        "batch_size": batch_size,
        "phases": [{"bag_size": bag, "steps": max(1, first)}, {"bag_size": 1, "steps": max(1, second)}],
    }
    path = folder / "run.json"
    path.write_text(json.dumps(run))
    return path


def measure(run: Path, place: float) -> dict[str, float]:
    """The figures of one new process."""
    command = [sys.executable, "-c", MEASURE, str(run), str(place)]
    output = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], check=True, capture_output=True)
    report: dict[str, float] = json.loads(output.stdout)
    return report


def median(reports: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(report[name] for report in reports) for name in reports[0]}


def table(report: dict[str, Any]) -> str:
    names = {
        "open_seconds": "open, s",
        "resident_megabytes": "memory when open, MB",
        "imported": "  of it imports, MB",
        "first_milliseconds": "512 windows, first use, ms",
        "warm_milliseconds": "512 windows, warm, ms",
        "warm_worst_milliseconds": "  the slowest of 101 steps, ms",
        "located_megabytes": "memory afterwards, MB",
    }
    steps = report["steps"]
    lines = [
        f"{report['tokens']:,} tokens in {report['shards']:,} shards, table {report['table_megabytes']:.0f} MB",
        f"{'step':32}" + "".join(f"{int(figures['step']):>14,}" for figures in steps.values()) + f"{'target':>10}",
    ]
    for name, label in names.items():
        figures = "".join(f"{step[name]:14.2f}" for step in steps.values())
        target = f"{TARGETS[name]:10.0f}" if name in TARGETS else ""
        lines.append(f"{label:32}{figures}{target}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--tokens-per-shard", type=int, default=20_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="new processes for each place; their median counts")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
