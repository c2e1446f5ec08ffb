"""`python -m benchmarks.demo`: the stages of the demo in order.

An error, Ctrl-C and SIGTERM all stop every process that the demo started. The exit code is 1 where the audit fails.
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
from benchmarks.demo.preparation import convert_corpus, plan_runs
from benchmarks.demo.processes import Children, DemoError
from benchmarks.demo.settings import BASELINE, LONG, SHORT, TST, DemoSettings, Places
from benchmarks.demo.training import Rerun, Training, losses_of
from tst_data.command_line import run_app
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run

INTERRUPTED = 130

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    long: Annotated[bool, typer.Option("--long", help="more steps, and a comparison with ordinary training")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--output", help="folder of the report and its files [default: ./demo-output]"),
    ] = None,
) -> None:
    """Convert, serve, train through both phases, kill server and trainer, resume, audit, and report."""
    settings = LONG if long else SHORT
    folder = folder or Path("demo-long-output" if long else "demo-output")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with claimed(folder.resolve(), needed_bytes=10 * settings.training_bytes) as output, Display() as display:
            results = run_demo(output, settings, display)
    except KeyboardInterrupt:
        sys.stderr.write("demo: stopped; every process that it had started was ended\n")
        sys.exit(INTERRUPTED)
    report.print_table(results)
    sys.stderr.write(f"report: {folder / 'report.html'}\n")
    if not results["audit"]["passed"]:
        raise DemoError(f"audit: failed; see '{folder / 'report.html'}'")


def run_demo(output: Path, settings: DemoSettings, display: Display) -> dict[str, Any]:
    """All stages -> the results, which are also written into the output folder with the page."""
    display.title(f"This demo takes {settings.minutes}")
    paired: PairedDifference | None = None
    with Children(output / "logs") as children:
        split, corpus = convert_corpus(output, settings, children, display)
        plan_runs(output, settings, display)
        first_event = len(display.history)
        training = Training(output, settings, children, display)
        training.run()
        events = display.history[first_event:]

        display.title("After the training: rerun without disturbance, audit")
        rerun = Rerun(output, training.disturbance, Places.of(settings), children)
        reports = {name: _load(output / name / "report.json") for name in settings.runs}
        records = {name: tail.records for name, tail in training.tails.items()}
        if settings.compares:
            paired = _compare(output, split, settings, display)
        audit, undisturbed = _audit(output, records, reports, training, rerun, display)
    display.say(report.audit_sentence(audit))
    results = report.gather(
        records=records,
        reports=reports,
        seconds=training.seconds,
        paired=paired,
        places=Places.of(settings),
        parameters=report.num_parameters(output / TST / "model"),
    )
    results |= {
        "audit": audit,
        "corpus": corpus,
        "events": events,
        "machine": report.machine(),
        "date": report.today(),
        "seconds": display.seconds,
    }
    pictures = report.pictures_of(records, Places.of(settings), training.disturbance, undisturbed)
    report.write_report(output, results, pictures)
    display.title("Done")
    return results


def _compare(output: Path, split: Split, settings: DemoSettings, display: Display) -> PairedDifference:
    """Both final models on the same held-out windows."""
    package_of: dict[str, str] = {}
    for package in split.held_out:
        package_of |= {str(package.path_of(file)): package.name for file, _ in package.files}
    windows, packages = held_out_windows(
        output / "data" / "held-out", settings.final_windows, settings.sequence_length, package_of
    )
    losses = {}
    for name in (TST, BASELINE):

        def progress(done: int, name: str = name) -> None:
            display.show(f"held-out {name}", done, len(windows), "windows")

        losses[name] = window_losses(output / name / "model", windows, progress)
    display.clear()
    return paired_difference(losses[TST], losses[BASELINE], packages)


def _audit(
    output: Path,
    records: dict[str, list[dict[str, Any]]],
    reports: dict[str, dict[str, Any]],
    training: Training,
    rerun: Rerun,
    display: Display,
) -> tuple[dict[str, Any], dict[int, float]]:
    """Every step and window of all runs, and the losses around the kills -> the audit, and the rerun's losses."""
    runs = []
    for name, report_of_run in reports.items():
        with Plan(load_run(output / f"{name}.yaml")) as plan:

            def progress(done: int, name: str = name, total: int = plan.num_steps) -> None:
                display.show(f"audit {name}", done, total, "steps")

            runs.append(audit_run(plan, records[name], report_of_run["digests"][0], progress))
    undisturbed = rerun.wait(display)
    display.clear()
    disturbance = training.disturbance
    recorded = losses_of(records[TST], 0, rerun.end_step + len(records[TST]))
    same = compare_losses(recorded, undisturbed)
    again = compare_losses(recorded, disturbance.taken_before)
    audit = {
        "runs": [run.as_dict() for run in runs],
        "rerun": same.as_dict(),
        "taken_twice": again.as_dict(),
        "disturbance": {
            "server_killed_at": disturbance.server_killed_at,
            "server_down_seconds": disturbance.server_down_seconds,
            "trainer_killed_at": disturbance.trainer_killed_at,
            "resumed_at": disturbance.resumed_at,
        },
        "passed": all(run.passed for run in runs) and same.identical and again.identical,
    }
    return audit, undisturbed


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_app(app)
