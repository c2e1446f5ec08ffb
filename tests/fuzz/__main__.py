"""A long run over all parsers, or some of them: python -m tests.fuzz --inputs 200000"""

from __future__ import annotations

import argparse
import time

from tests.fuzz.running import Counts, fuzz
from tests.fuzz.targets import TARGETS, targets

CHUNK = 5000
"""Inputs of one seed: hypothesis remembers all that it gave, so a long run is cut."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="inputs in all, shared by the targets")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="another number gives other inputs")
    options = parser.parse_args()
    names = options.target or TARGETS
    with targets() as made:
        for name in names:
            began, left, total = time.monotonic(), options.inputs // len(names), Counts()
            for number in range(options.seed, options.seed + -(-left // CHUNK)):
                counts = fuzz(made[name], min(CHUNK, left), number=number)
                left -= CHUNK
                total.read += counts.read
                total.refused += counts.refused
                total.slowest_seconds = max(total.slowest_seconds, counts.slowest_seconds)
            counted = f"{total.read + total.refused:,} inputs, {total.read:,} read, {total.refused:,} refused"
            took = f"slowest (CPU time) {total.slowest_seconds:.3f} s, {time.monotonic() - began:.0f} s in all"
            print(f"{name}: {counted}, {took}", flush=True)


if __name__ == "__main__":
    main()
