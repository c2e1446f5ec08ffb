"""From the records to `results.json`, the page, the picture, and the table on the terminal."""

from __future__ import annotations

import json
import math
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
from benchmarks.demo.comparison_page import equal_data_text, speed_up_text
from benchmarks.demo.page import audit_lines, audit_sentence, figures_table, gain_sentence, render
from benchmarks.demo.plots import Kills, Pictures, draw, draw_summary
from benchmarks.demo.settings import BASELINE, TST, Places
from benchmarks.demo.training import Disturbance, losses_of

__all__ = [
    "audit_sentence",
    "gather",
    "machine",
    "num_parameters",
    "pictures_of",
    "print_table",
    "today",
    "write_report",
]

Records = Sequence[Mapping[str, Any]]
SPIKE_STEPS = 100


def gather(
    *,
    records: Mapping[str, Records],
    reports: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    paired: comparison.PairedDifference | None,
    places: Places,
    parameters: int,
) -> dict[str, Any]:
    """The figures from the records and the final models. The caller adds corpus, audit, machine and events.

    `paired` is null, and so is `comparison` in the results, where the baseline was not trained.
    """
    curves = {name: Curve.of(found, "evaluation", "held_out_loss") for name, found in records.items()}
    return {
        "steps": places.steps,
        "switch": places.switch,
        "parameters": parameters,
        "runs": {
            name: _run(records[name], reports[name], curves[name]) | {"wall_seconds": seconds[name]} for name in records
        },
        "spike": _spike(records, places),
        "comparison": None if paired is None else _comparison(paired, curves, places, parameters),
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


def _comparison(
    paired: comparison.PairedDifference, curves: Mapping[str, Curve], places: Places, parameters: int
) -> dict[str, Any]:
    tst, baseline = curves[TST], curves[BASELINE]
    return {
        "verdict": comparison.verdict(paired, steps=places.steps, parameters=parameters),
        "paired": paired.as_dict(),
        "speed_up": comparison.speed_up(tst, baseline, places.switch),
        "equal_data": comparison.equal_data(tst, baseline),
        "lead": comparison.lead(tst, baseline, places.switch),
    }


def _spike(records: Mapping[str, Records], places: Places) -> dict[str, float]:
    """Next-token training loss of TST where recovery begins; with the baseline's where there is one."""
    tst = Curve.of(records[TST], "step", "next_token_loss")
    after = min(SPIKE_STEPS, len(tst) - 1)
    spike = {
        "first": float(tst.loss[0]),
        "after": float(tst.loss[max(0, after - 4) : after + 5].mean()),
        "after_steps": after,
    }
    if BASELINE in records:
        baseline = Curve.of(records[BASELINE], "step", "next_token_loss")
        near = np.abs(baseline.step - places.switch) <= SPIKE_STEPS // 2
        spike["baseline"] = float(baseline.loss[near].mean())
    return spike


def pictures_of(
    records: Mapping[str, list[dict[str, Any]]],
    places: Places,
    disturbance: Disturbance,
    undisturbed: Mapping[int, float],
) -> Pictures:
    """Everything that is drawn."""
    held_out = {name: Curve.of(found, "evaluation", "held_out_loss") for name, found in records.items()}
    training = {name: Curve.of(found, "step", "next_token_loss") for name, found in records.items()}
    return Pictures(
        tst_held_out=held_out[TST],
        baseline_held_out=held_out.get(BASELINE),
        tst_training=training[TST],
        baseline_training=training.get(BASELINE),
        tst_bags=Curve.of(records[TST], "step", "bag_loss"),
        switch=places.switch,
        switch_tokens=int(np.interp(places.switch, held_out[TST].step, held_out[TST].raw_tokens)),
        kills=Kills(
            server=disturbance.server_killed_at.get(TST, 0),
            trainer=disturbance.trainer_killed_at,
            recorded=losses_of(records[TST], min(undisturbed, default=0), max(undisturbed, default=-1) + 1),
            before=disturbance.taken_before,
            undisturbed=undisturbed,
        ),
    )


def num_parameters(model: Path) -> int:
    """Parameters of a model that `tst-train` wrote."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "numpy") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def machine() -> dict[str, Any]:
    """The machine that the figures were taken on."""
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


def today() -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def write_report(output: Path, results: Mapping[str, Any], pictures: Pictures) -> Path:
    """`report.html`, `demo-report.png` and `results.json` in the output folder -> the page."""
    (output / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    (output / "demo-report.png").write_bytes(draw_summary(pictures, audit_sentence(results["audit"])))
    page = output / "report.html"
    page.write_text(render(results, draw(pictures)), encoding="utf-8")
    return page


def print_table(results: Mapping[str, Any]) -> None:
    """The figures and the audit on stdout."""
    console = Console(highlight=False)
    header, rows = figures_table(results)
    if console.is_terminal:
        table = Table(header_style="bold")
        table.add_column("")
        for name in header[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        print("\n".join(_columns([header, *rows])))
    lines = [*_audit_table(results["audit"]), *audit_lines(results["audit"])]
    compared = results["comparison"]
    if compared is None:
        lines += [audit_sentence(results["audit"]), gain_sentence()]
    else:
        lines += [f"speed-up at equal loss: {speed_up_text(compared)}", equal_data_text(compared)]
        lines += [audit_sentence(results["audit"]), compared["verdict"]]
    for line in lines:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows in columns, where there is no terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" if index else f"{cell:<{width}}" for index, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def _audit_table(audit: Mapping[str, Any]) -> list[str]:
    return [
        f"audit of {run['run']}: steps {run['steps']:,}, windows {run['windows']:,}, lost {run['lost']}, repeated "
        f"{run['repeated']}, tokens read twice {run['tokens_repeated']}, digest of batches "
        + ("equal" if run["digest_given"] == run["digest_planned"] else "DIFFERENT")
        for run in audit["runs"]
    ]
