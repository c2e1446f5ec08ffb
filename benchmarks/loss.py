"""Time and peak memory of the multi-hot cross-entropy, forward and backward, and of the obvious ways to write it.

    python benchmarks/loss.py [--positions 4096] [--vocabulary 32768] [--hidden 512] [--rounds 3] [--json]

All cases run in one process, one after another, round after round, and the median of the rounds counts. So a machine
that slows down slows all of them. Peak memory is what a case adds to hidden states, head and targets. For it each case
runs once more in a new process, whose peak counter is reset first (Linux), or as the CUDA allocator counts it. Cases:

- `fused s=1`, `fused s=8`: linear_multi_hot_cross_entropy; the ratio of the two is what matters
- `plain s=8`: head, then multi_hot_cross_entropy
- `torch s=1`: head, then torch.nn.functional.cross_entropy, as in any next-token trainer
- `slots s=8`: head, then one cross_entropy for each slot, averaged
- `expand s=8`: head, then logits expanded to (b, L, s, V) and one cross_entropy; skipped where it would take more than
  half of the free memory
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer_client import linear_multi_hot_cross_entropy, multi_hot_cross_entropy

s = 8

CASES = ("fused s=1", "fused s=8", "plain s=8", "torch s=1", "slots s=8", "expand s=8")


def make_case(name: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """A function that computes the loss and its gradients once."""
    generator = torch.Generator().manual_seed(0)
    L, d, V = arguments.positions, arguments.hidden, arguments.vocabulary
    device = arguments.device
    hidden = torch.randn(1, L, d, generator=generator).to(device).requires_grad_()
    weight = (0.02 * torch.randn(V, d, generator=generator)).to(device).requires_grad_()
    targets = torch.randint(0, V, (1, L, s), generator=generator).to(device)

    def slots(logits: Tensor) -> Tensor:
        losses = [functional.cross_entropy(logits.flatten(0, 1), targets[..., slot].flatten()) for slot in range(s)]
        return torch.stack(losses).mean()

    def expand(logits: Tensor) -> Tensor:
        expanded = logits[:, :, None].expand(-1, -1, s, -1).reshape(-1, V)
        return functional.cross_entropy(expanded, targets.flatten())

    losses: dict[str, Callable[[], Tensor]] = {
        "fused s=1": lambda: linear_multi_hot_cross_entropy(hidden, weight, targets[..., :1]),
        "fused s=8": lambda: linear_multi_hot_cross_entropy(hidden, weight, targets),
        "plain s=8": lambda: multi_hot_cross_entropy(hidden @ weight.T, targets),
        "torch s=1": lambda: functional.cross_entropy((hidden @ weight.T).flatten(0, 1), targets[..., 0].flatten()),
        "slots s=8": lambda: slots(hidden @ weight.T),
        "expand s=8": lambda: expand(hidden @ weight.T),
    }
    loss = losses[name]

    def run() -> None:
        hidden.grad = weight.grad = None
        torch.autograd.backward(loss())
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def measure_times(names: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each case; the cases take turns."""
    cases = {name: make_case(name, arguments) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(arguments.rounds + 1):
        for name, run in cases.items():
            begin = time.perf_counter()
            run()
            if round_number:  # the first one warms up
                seconds[name].append(time.perf_counter() - begin)
        print(f"round {round_number} of {arguments.rounds}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in seconds.items()}


def process_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_bytes(name: str, arguments: argparse.Namespace) -> int:
    """The most memory that one run of a case adds. Must be called in a new process."""
    run = make_case(name, arguments)
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    warm_up = torch.ones(64, 64, requires_grad=True).matmul(torch.ones(64, 64)).sum()
    torch.autograd.backward(warm_up)  # loads and sets up the libraries
    Path("/proc/self/clear_refs").write_text("5")
    before = process_bytes("VmRSS")
    run()
    return process_bytes("VmHWM") - before


def measure_peak(name: str) -> int:
    """`peak_bytes` in a new process, with the same options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def fits(name: str, arguments: argparse.Namespace) -> bool:
    """Whether a case takes at most half of the free memory: expanded logits, their log-softmax and their gradient."""
    if name != "expand s=8" or arguments.device == "cuda":
        return True
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return bool(3 * 4 * s * arguments.positions * arguments.vocabulary < free / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="time and peak memory of the multi-hot cross-entropy")
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak-of", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print(peak_bytes(arguments.peak_of, arguments))
        return
    names = [name for name in CASES if fits(name, arguments)]
    peaks = {name: measure_peak(name) for name in names}
    seconds = measure_times(names, arguments)
    reference = "fused s=1"
    results = {
        name: {
            "seconds": seconds[name],
            "time_ratio": seconds[name] / seconds[reference],
            "peak_bytes": peaks[name],
            "memory_ratio": peaks[name] / peaks[reference],
        }
        for name in names
    }
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "peak_of")}
        print(json.dumps({"settings": settings, "cases": results}, indent=2))
        return
    print(
        f"{arguments.positions:,} positions, d = {arguments.hidden}, V = {arguments.vocabulary:,}, float32, "
        f"{arguments.device}, {arguments.threads} threads; forward and backward, median of {arguments.rounds} rounds"
    )
    print(f"{'':12}{'seconds':>10}{'ratio':>8}{'peak MB':>10}{'ratio':>8}")
    for name, result in results.items():
        print(
            f"{name:12}{result['seconds']:10.3f}{result['time_ratio']:8.2f}"
            f"{result['peak_bytes'] / 1e6:10,.0f}{result['memory_ratio']:8.2f}"
        )
    for name in CASES:
        if name not in names:
            print(f"{name:12}skipped: it would take more than half of the free memory; try fewer --positions")


if __name__ == "__main__":
    main()
