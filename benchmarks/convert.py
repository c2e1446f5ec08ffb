"""Conversion compared with the bare tokenizer: same documents, same number of threads, in turn in one run.

    python benchmarks/convert.py [--megabytes 60] [--threads 2] [--rounds 2] [--tokenizer train:8192] [--json]

The documents are Python source of this interpreter's packages, up to the given size. "bare" is one call of
`encode_batch` of the library `tokenizers`, on texts that are already in memory. "convert" is `tst-data convert`, from
reading files to the finished dataset with its shards hashed and synced. Both times are without the start of Python. CPU
seconds include the start of Python and the import of `streaming`; on a busy machine they say more. The second table is
the memory of the conversion's whole process tree for two sizes of input, compared with the bare call's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

BARE = """
import json, os, sys, time
from pathlib import Path
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.no_truncation()
tokenizer.no_padding()
texts = [path.read_bytes().decode() for path in sorted(Path(sys.argv[2]).iterdir())]
began, cpu_began = time.monotonic(), time.process_time()
encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": sum(map(len, encodings)) + len(texts)}))
"""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        big, small = folder / "documents", folder / "documents-half"
        num_bytes = collect(big, options.megabytes * 1_000_000)
        halve(big, small)
        tokenizers = {name: _tokenizer_file(name, small, folder) for name in options.tokenizer}
        speed = [compare(name, file, big, folder, options) for name, file in tokenizers.items()]
        first = next(iter(tokenizers.values()))
        memory = [measure_memory(first, source, folder, options.threads) for source in (small, big)]
    report = {"bytes": num_bytes, "threads": options.threads, "speed": speed, "memory": memory}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


def compare(name: str, tokenizer: Path, source: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both, in turn, and the ratio of their medians."""
    bare, ours, tokens = [], [], set()
    bare_cpu, ours_cpu = [], []
    for number in range(options.rounds):
        result, _ = _run_bare(tokenizer, source, options.threads)
        bare.append(result["seconds"])
        bare_cpu.append(result["cpu_seconds"])
        tokens.add(result["tokens"])
        cpu_began = _cpu_seconds_of_children()
        result, _ = _run_convert(tokenizer, source, folder / f"out-{name.replace('/', '_')}-{number}", options.threads)
        ours.append(result["seconds"])
        ours_cpu.append(_cpu_seconds_of_children() - cpu_began)
        tokens.add(result["tokens"])
    if len(tokens) != 1:
        raise SystemExit(f"token counts differ: {tokens}")
    return {
        "tokenizer": name,
        "tokens": tokens.pop(),
        "bare_seconds": bare,
        "convert_seconds": ours,
        "ratio": statistics.median(bare) / statistics.median(ours),
        "cpu_ratio": statistics.median(bare_cpu) / statistics.median(ours_cpu),
    }


def measure_memory(tokenizer: Path, source: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Peak memory of the process trees of both."""
    size = sum(path.stat().st_size for path in source.iterdir())
    _, convert_peak = _run_convert(tokenizer, source, folder / f"memory-{source.name}", threads)
    _, bare_peak = _run_bare(tokenizer, source, threads)
    return {"bytes": size, "convert_peak_bytes": convert_peak, "bare_peak_bytes": bare_peak}


def collect(target: Path, num_bytes: int) -> int:
    """Copy Python source of the installed packages into one folder, up to `num_bytes`."""
    target.mkdir()
    total = 0
    packages = Path(os.__file__).parent, Path(psutil.__file__).parent.parent
    for number, path in enumerate(path for root in packages for path in sorted(root.rglob("*.py"))):
        data = path.read_bytes()
        try:
            data.decode()
        except UnicodeDecodeError:
            continue
        if data.startswith(b"\xef\xbb\xbf"):
            continue
        (target / f"{number:06}.py").write_bytes(data)
        total += len(data)
        if total >= num_bytes:
            break
    return total


def halve(source: Path, target: Path) -> None:
    """Copy every second file by size, from the largest: half of the text, with the same largest document."""
    target.mkdir()
    for path in sorted(source.iterdir(), key=lambda path: -path.stat().st_size)[::2]:
        (target / path.name).write_bytes(path.read_bytes())


def _run_bare(tokenizer: Path, source: Path, threads: int) -> tuple[dict[str, Any], int]:
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    return _measured([sys.executable, "-c", BARE, str(tokenizer), str(source)], environment)


def _run_convert(tokenizer: Path, source: Path, out: Path, threads: int) -> tuple[dict[str, Any], int]:
    command = [sys.executable, "-m", "tst_data.cli", "convert", str(source), "--tokenizer", str(tokenizer)]
    command += ["--out", str(out), "--workers", str(threads), "--json"]
    root = str(Path(__file__).resolve().parent.parent)
    return _measured(command, {**os.environ, "PYTHONPATH": root})


def _measured(command: list[str], environment: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The JSON that a command prints, and the peak memory of its process tree (shared pages counted once)."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peak))
        watcher.start()
        output, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... ended with {process.returncode}")
    return json.loads(output), peak[0]


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _watch(process: psutil.Process, peak: list[int]) -> None:
    while True:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            members = [member.memory_info() for member in (process, *process.children(recursive=True))]
            private = sum(member.rss - member.shared for member in members)
            peak[0] = max(peak[0], private + max(member.shared for member in members))
        except psutil.Error:
            if not process.is_running():
                return
        time.sleep(0.05)


def _tokenizer_file(name: str, source: Path, folder: Path) -> Path:
    if not name.startswith("train:"):
        return Path(name)
    from tst_data.tokenizer.loading import split_training_size
    from tst_data.tokenizer.training import train_tokenizer

    target = folder / name.replace(":", "-")
    target.mkdir()
    texts = (path.read_bytes() for path in sorted(source.iterdir())[:2000])
    train_tokenizer(texts, split_training_size(name) or 0).save(target)
    return target / "tokenizer.json"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokenizer", action="append", help="a tokenizer.json or train:SIZE; repeatable")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.tokenizer = options.tokenizer or ["train:8192"]
    return options


def _print(report: dict[str, Any]) -> None:
    print(f"{report['bytes'] / 1e6:.0f} MB of Python source, {report['threads']} threads or workers")
    print(f"{'tokenizer':<36}{'tokens':>12}{'bare s':>10}{'convert s':>11}{'ratio':>8}{'CPU ratio':>11}")
    for row in report["speed"]:
        bare, ours = statistics.median(row["bare_seconds"]), statistics.median(row["convert_seconds"])
        name = row["tokenizer"][-35:]
        print(f"{name:<36}{row['tokens']:>12,}{bare:>10.1f}{ours:>11.1f}{row['ratio']:>8.2f}{row['cpu_ratio']:>11.2f}")
    print(f"{'input MB':<12}{'convert peak MB':>18}{'encode_batch peak MB':>24}")
    for row in report["memory"]:
        peaks = f"{row['convert_peak_bytes'] / 1e6:>18,.0f}{row['bare_peak_bytes'] / 1e6:>24,.0f}"
        print(f"{row['bytes'] / 1e6:<12.0f}{peaks}")


if __name__ == "__main__":
    main()
