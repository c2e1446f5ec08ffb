"""`python -m benchmarks.demo`: the stages of the demo in order.

Whatever ends it (an error, Ctrl-C, a signal), every process that it started is stopped. It exits with 1 where the
audit fails.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from benchmarks.demo import report
from benchmarks.demo.audit import audit_run, compare_losses
from benchmarks.demo.comparison import PairedDifference, paired_difference
from benchmarks.demo.corpus import Split
from benchmarks.demo.display import Display
from benchmarks.demo.folder import claimed
from benchmarks.demo.held_out import held_out_windows, window_losses
from benchmarks.demo.preparation import calibrate, convert_corpus, plan_runs
from benchmarks.demo.processes import Children, DemoError
from benchmarks.demo.settings import BASELINE, FULL, QUICK, TST, DemoSettings
from benchmarks.demo.training import Disturbance, SideBySide, Stretch, losses_of
from tst_data.command_line import run_app
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run

INTERRUPTED = 130

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="the same in 90 seconds, too short to show a gain")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--output", help="folder of the report and all it is made of [default: ./demo-output]"),
    ] = None,
) -> None:
    """Convert, serve, train with superposition beside the baseline, kill what runs, audit, and report."""
    settings = QUICK if quick else FULL
    folder = folder or Path("demo-quick-output" if quick else "demo-output")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with claimed(folder.resolve(), needed_bytes=10 * settings.training_bytes) as output, Display() as display:
            results = run_demo(output, settings, display)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; every process that the demo had started was ended\n")
        sys.exit(INTERRUPTED)
    report.print_table(results)
    sys.stderr.write(f"report: {folder / 'report.html'}\n")
    if not results["audit"]["passed"]:
        raise DemoError(f"the audit failed; see '{folder / 'report.html'}'")


def run_demo(output: Path, settings: DemoSettings, display: Display) -> dict[str, Any]:
    """All stages -> the results, written with the page into the output folder."""
    with Children(output / "logs") as children:
        split, corpus = convert_corpus(output, settings, children, display)
        places, calibration = calibrate(output, settings, corpus["training"]["tokens"], children, display)
        plan_runs(output, places, settings, display)
        begin = len(display.history)
        training = SideBySide(output, places, children, display)
        training.run()
        events = display.history[begin:]

        display.title("Behind the training: undisturbed stretch, evaluation, audit")
        stretch = Stretch(output, training.disturbance, places, children)
        reports = {name: _load(output / name / "report.json") for name in (TST, BASELINE)}
        records = {name: tail.records for name, tail in training.tails.items()}
        paired, parameters = _evaluate(output, split, settings, display)
        audit = _audit(output, records, reports, training.disturbance, stretch, display)
    results = report.gather(
        records=records,
        reports=reports,
        seconds=training.seconds,
        paired=paired,
        places=places,
        parameters=parameters,
        quick=settings.quick,
    )
    results |= {
        "audit": audit,
        "corpus": corpus,
        "calibration": calibration,
        "events": events,
        "machine": report.machine(),
        "date": report.today(),
    }
    kills = (
        (training.disturbance.server_killed_at[TST], "server killed"),
        (training.disturbance.trainer_killed_at, "TST trainer killed"),
    )
    pictures = report.pictures_of(records, places, kills)
    results["seconds"] = display.seconds
    report.write_report(output, results, pictures)
    display.title("Done")
    return results


def _evaluate(output: Path, split: Split, settings: DemoSettings, display: Display) -> tuple[PairedDifference, int]:
    """Both final models on the same held-out windows."""
    package_of: dict[str, str] = {}
    for package in split.held_out:
        package_of |= {str(package.path_of(file)): package.name for file, _ in package.files}
    windows, packages = held_out_windows(
        output / "data" / "held-out", settings.final_windows, settings.sequence_length, package_of
    )
    losses, parameters = {}, 0
    for name in (TST, BASELINE):

        def progress(done: int, name: str = name) -> None:
            display.show(f"held-out {name}", min(done, len(windows)), len(windows), "windows")

        losses[name], parameters = window_losses(output / name / "model", windows, progress)
    display.clear()
    return paired_difference(losses[TST], losses[BASELINE], packages), parameters


def _audit(
    output: Path,
    records: dict[str, list[dict[str, Any]]],
    reports: dict[str, dict[str, Any]],
    disturbance: Disturbance,
    stretch: Stretch,
    display: Display,
) -> dict[str, Any]:
    """Every step and window of both runs, and the losses around the kills."""
    runs = []
    for name in (TST, BASELINE):
        with Plan(load_run(output / f"{name}.yaml")) as plan:

            def progress(done: int, name: str = name, total: int = plan.num_steps) -> None:
                display.show(f"audit {name}", done, total, "steps")

            runs.append(audit_run(plan, records[name], reports[name]["digests"][0], progress))
    display.clear()
    undisturbed = stretch.wait(display)
    recorded = losses_of(records[TST], 0, stretch.end_step + len(records[TST]))
    same = compare_losses(recorded, undisturbed)
    again = compare_losses(recorded, disturbance.taken_before)
    passed = all(run.passed for run in runs) and same.identical and again.identical
    display.clear()
    return {
        "runs": [run.as_dict() for run in runs],
        "stretch": same.as_dict(),
        "taken_twice": again.as_dict(),
        "disturbance": {
            "server_killed_at": disturbance.server_killed_at,
            "server_down_seconds": disturbance.server_down_seconds,
            "trainer_killed_at": disturbance.trainer_killed_at,
            "resumed_at": disturbance.resumed_at,
        },
        "passed": passed,
    }


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_app(app)
