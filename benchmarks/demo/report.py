"""From what was recorded to `results.json`, the page and the table."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.demo import comparison
from benchmarks.demo.comparison import Curve
from benchmarks.demo.page import audit_lines, equal_data_text, figures_table, render, speed_up_text, table_lines
from benchmarks.demo.plots import Pictures, draw, draw_held_out
from benchmarks.demo.settings import BASELINE, TST, Places

__all__ = ["gather", "machine", "pictures_of", "print_table", "write_report"]

Records = Sequence[Mapping[str, Any]]
SPIKE_STEPS = 100


def gather(
    *,
    records: Mapping[str, Records],
    reports: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    paired: comparison.PairedDifference,
    places: Places,
    parameters: int,
    quick: bool,
) -> dict[str, Any]:
    """What the records and the final models say; the caller adds corpus, audit, machine and events."""
    curves = {name: Curve.of(found, "evaluation", "held_out_loss") for name, found in records.items()}
    tst, baseline = curves[TST], curves[BASELINE]
    return {
        "quick": quick,
        "verdict": comparison.verdict(paired, steps=places.steps, parameters=parameters, quick=quick),
        "paired": paired.as_dict(),
        "steps": places.steps,
        "switch": places.switch,
        "parameters": parameters,
        "runs": {
            name: _run(records[name], reports[name], curves[name]) | {"wall_seconds": seconds[name]}
            for name in (TST, BASELINE)
        },
        "speed_up": comparison.speed_up(tst, baseline, places.switch),
        "equal_data": comparison.equal_data(tst, baseline),
        "lead": comparison.lead(tst, baseline, places.switch),
        "spike": _spike(records, places),
        "held_out_curves": {name: curve.as_dict() for name, curve in curves.items()},
    }


def _run(records: Records, report: Mapping[str, Any], curve: Curve) -> dict[str, Any]:
    shares = comparison.wait_share(records)
    return {
        "steps": report["steps"],
        "raw_tokens": report["raw_tokens"],
        "latent_positions": report["latent_positions"],
        "held_out_loss": float(curve.loss[-1]),
        "trained_seconds": report["seconds"],
        "step_seconds": comparison.step_seconds(records),
        "wait_overall": shares["overall"],
        "wait_median": shares["median"],
        "digest": report["digests"][0],
        "fingerprint": report["fingerprint"],
    }


def _spike(records: Mapping[str, Records], places: Places) -> dict[str, float]:
    """Next-token training loss of TST where recovery begins, beside the baseline's."""
    tst = Curve.of(records[TST], "step", "next_token_loss")
    baseline = Curve.of(records[BASELINE], "step", "next_token_loss")
    after = min(SPIKE_STEPS, len(tst) - 1)
    near = np.abs(baseline.step - places.switch) <= SPIKE_STEPS // 2
    return {
        "first": float(tst.loss[0]),
        "baseline": float(baseline.loss[near].mean()),
        "after": float(tst.loss[max(0, after - 4) : after + 5].mean()),
        "after_steps": after,
    }


def pictures_of(records: Mapping[str, Records], places: Places, kills: tuple[tuple[int, str], ...]) -> Pictures:
    """What there is to draw."""
    held_out = {name: Curve.of(found, "evaluation", "held_out_loss") for name, found in records.items()}
    return Pictures(
        tst_held_out=held_out[TST],
        baseline_held_out=held_out[BASELINE],
        tst_training=Curve.of(records[TST], "step", "next_token_loss"),
        baseline_training=Curve.of(records[BASELINE], "step", "next_token_loss"),
        tst_bags=Curve.of(records[TST], "step", "bag_loss"),
        switch=places.switch,
        switch_tokens=int(np.interp(places.switch, held_out[TST].step, held_out[TST].raw_tokens)),
        kills=kills,
    )


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write_report(output: Path, results: Mapping[str, Any], pictures: Pictures) -> Path:
    """`report.html`, `held-out.png` and `results.json` in the output folder -> the page."""
    (output / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    (output / "held-out.png").write_bytes(draw_held_out(pictures))
    page = output / "report.html"
    page.write_text(render(results, draw(pictures)), encoding="utf-8")
    return page


def today() -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def print_table(results: Mapping[str, Any]) -> None:
    """The figures on stdout."""
    console = Console(highlight=False)
    rows = figures_table(results)
    if console.is_terminal:
        table = Table(header_style="bold")
        table.add_column("")
        table.add_column("TST", justify="right", no_wrap=True)
        table.add_column("baseline", justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        print("\n".join(table_lines([("", "TST", "baseline"), *rows])))
    lines = [
        f"speed-up at equal loss: {speed_up_text(results)}",
        equal_data_text(results),
        *_audit(results["audit"]),
        results["verdict"],
    ]
    if results["quick"]:
        lines.append("This was the quick demo: too short to show a gain; `make demo` takes ten minutes.")
    for line in lines:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def _audit(audit: Mapping[str, Any]) -> list[str]:
    lines = [
        f"audit of {run['run']}: steps {run['steps']:,}, windows {run['windows']:,}, lost {run['lost']}, repeated "
        f"{run['repeated']}, tokens read twice {run['tokens_repeated']}, digest of batches "
        + ("equal" if run["digest_given"] == run["digest_planned"] else "DIFFERENT")
        for run in audit["runs"]
    ]
    return [*lines, *audit_lines(audit)]
