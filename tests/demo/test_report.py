"""The demo's arithmetic and its report from prepared records. python -m pytest tests/demo/test_report.py"""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.demo import report
from benchmarks.demo.audit import RunAudit, compare_losses
from benchmarks.demo.comparison import (
    Curve,
    equal_data,
    lead,
    paired_difference,
    speed_up,
    step_seconds,
    verdict,
    wait_share,
)
from benchmarks.demo.plots import binned
from benchmarks.demo.settings import BASELINE, LONG, TST, Places
from benchmarks.demo.training import Disturbance

pytestmark = pytest.mark.slow


def curve(steps: list[int], losses: list[float], tokens: list[int] | None = None) -> Curve:
    return Curve(step=np.array(steps), raw_tokens=np.array(tokens or steps) * 10, loss=np.array(losses))


def test_speed_up_is_the_baseline_s_steps_over_those_of_tst() -> None:
    baseline = curve([0, 50, 100], [7.0, 4.0, 3.0])
    tst = curve([0, 40, 60, 80, 90, 100], [7.0, 6.0, 4.0, 3.2, 2.8, 2.6], [0, 160, 180, 200, 210, 220])
    found = speed_up(tst, baseline, switch=40)
    assert found["loss"] == 3.0
    smoothed = tst.since(40).smoothed()
    assert smoothed.loss.tolist() == pytest.approx([4.0, 10 / 3, (3.2 + 2.8 + 2.6) / 3, 2.6])
    expected = 80 + 10 * (10 / 3 - 3.0) / (10 / 3 - smoothed.loss[2])
    assert found["tst_steps"] == pytest.approx(expected)
    assert found["speed_up"] == pytest.approx(100 / expected)


def test_speed_up_is_none_where_tst_does_not_reach_the_loss() -> None:
    baseline = curve([0, 50, 100], [7.0, 4.0, 3.0])
    found = speed_up(curve([0, 50, 100], [7.0, 5.0, 3.1]), baseline, switch=30)
    assert (found["tst_steps"], found["speed_up"]) == (None, None)


def test_speed_up_ignores_the_superposition_phase() -> None:
    baseline = curve([0, 50, 100], [7.0, 4.0, 3.0])
    tst = curve([0, 20, 60, 100], [7.0, 2.0, 5.0, 4.0])
    assert speed_up(tst, baseline, switch=40)["speed_up"] is None


def test_equal_data_is_compared_by_raw_tokens() -> None:
    baseline = curve([0, 50, 100], [7.0, 4.0, 3.0])
    tst = curve([0, 50, 100], [7.0, 6.0, 2.9], [0, 200, 250])
    found = equal_data(tst, baseline)
    assert found == {"raw_tokens": 1000.0, "baseline_loss": 3.0, "tst_loss": 6.5, "tst_step": 25.0}


def test_the_lead_begins_where_tst_stays_below() -> None:
    baseline = curve([10, 20, 30, 40, 50], [5.0, 4.0, 3.5, 3.2, 3.0])
    assert lead(curve([10, 20, 30, 40, 50], [4.0, 4.5, 3.4, 3.3, 2.9]), baseline, switch=15) == 50
    assert lead(curve([10, 20, 30, 40, 50], [4.0, 4.5, 3.4, 3.1, 2.9]), baseline, switch=15) == 30
    assert lead(curve([10, 20, 30, 40, 50], [4.0, 4.5, 3.4, 3.1, 3.1]), baseline, switch=15) is None


def test_the_standard_error_of_single_clusters_is_that_of_the_mean() -> None:
    random = np.random.default_rng(1)
    tst, baseline = random.normal(3, 1, 500), random.normal(3, 1, 500)
    found = paired_difference(tst, baseline, np.arange(500))
    assert found.difference == pytest.approx((tst - baseline).mean())
    assert found.standard_error == pytest.approx((tst - baseline).std(ddof=1) / np.sqrt(500))


def test_windows_of_one_cluster_count_once() -> None:
    differences = np.repeat(np.random.default_rng(2).normal(0, 1, 50), 20)
    found = paired_difference(3 + differences, np.full(1000, 3.0), np.repeat(np.arange(50), 20))
    alone = paired_difference(3 + differences[::20], np.full(50, 3.0), np.arange(50))
    assert found.standard_error == pytest.approx(alone.standard_error)
    assert (found.windows, found.clusters) == (1000, 50)


@pytest.mark.parametrize(("shift", "word"), [(-0.5, "ahead"), (0.0, "level"), (0.5, "behind")])
def test_the_verdict_is_level_within_two_standard_errors(shift: float, word: str) -> None:
    words = {"ahead": "ends better than", "level": "end level", "behind": "ends worse than"}
    noise = np.random.default_rng(3).normal(0, 0.3, 400)
    noise -= noise.mean()
    paired = paired_difference(3 + shift + noise, np.full(400, 3.0), np.arange(400))
    assert paired.verdict == word
    sentence = verdict(paired, steps=100, parameters=230_000)
    assert f" {words[word]} " in sentence
    assert "one seed" in sentence
    assert sentence.count(". ") == 0


def test_bins_are_means_and_keep_short_curves() -> None:
    long = curve(list(range(1000)), [float(step) for step in range(1000)])
    assert binned(long, 10).loss.tolist() == pytest.approx([100 * number + 49.5 for number in range(10)])
    short = curve([1, 2, 3], [3.0, 2.0, 1.0])
    assert binned(short, 10).loss.tolist() == [3.0, 2.0, 1.0]
    assert len(binned(curve([], []), 10)) == 0


def test_the_outage_is_not_in_the_share_of_waiting() -> None:
    records = [
        {
            "event": "step",
            "step": step,
            "bag_size": 1,
            "raw_tokens": 100 * (step + 1),
            "tokens_per_second": rate,
            "data_wait_share": share,
        }
        for step, (rate, share) in enumerate([(1000, 0.1), (1000, 0.1), (20, 0.9), (1000, 0.4)])
    ]
    found = wait_share(records)
    assert found["overall"] == pytest.approx(0.2)
    assert found["median"] == pytest.approx(0.1)
    assert step_seconds(records) == {"1": pytest.approx(0.1)}


def prepared_records(name: str, places: Places) -> list[dict[str, Any]]:
    """What `tst-train` would write, with invented losses."""
    records: list[dict[str, Any]] = []
    tokens = 0
    for step in range(places.steps):
        bag_size = 4 if name == TST and step < places.switch else 1
        tokens += bag_size * 1024
        loss = 3 + 4 * 0.99**step + (0.5 if name == TST else 0)
        key = "bag_loss" if bag_size > 1 else "next_token_loss"
        common = {"step": step, "raw_tokens": tokens, "tokens_per_second": 1e4, "data_wait_share": 0.001}
        records.append({"event": "step", "bag_size": bag_size, key: loss, **common})
        if (step + 1) % places.evaluate_every == 0:
            records.append({"event": "evaluation", "step": step + 1, "held_out_loss": loss, "raw_tokens": tokens})
    return records


def write(folder: Path, names: tuple[str, ...], *, passed: bool = True) -> tuple[str, dict[str, Any]]:
    """The page and the results of a demo with these runs."""
    places = Places.of(dataclasses.replace(LONG, steps=400))
    records = {name: prepared_records(name, places) for name in names}
    reports = {
        name: {
            "steps": 400,
            "raw_tokens": records[name][-1]["raw_tokens"],
            "latent_positions": 409_600,
            "seconds": 61.0,
            "digests": ["a" * 32],
            "fingerprint": "b" * 64,
        }
        for name in records
    }
    losses = np.random.default_rng(4).normal(3, 0.5, (2, 300))
    results = report.gather(
        records=records,
        reports=reports,
        seconds={TST: 70.0, BASELINE: 61.0},
        paired=paired_difference(losses[0] + 0.5, losses[0], np.arange(300) // 10) if BASELINE in names else None,
        places=places,
        parameters=230_208,
    )
    audit = RunAudit(
        run=TST,
        steps=400,
        windows=6400,
        tokens=1,
        lost=0 if passed else 1,
        repeated=0,
        digest_given="a",
        digest_planned="a",
        tokens_repeated=0,
    )
    same = compare_losses({1: 2.0}, {1: 2.0}).as_dict()
    side = {"packages": ["<script>alert(1)</script>", "b"], "bytes": 5, "documents": 1, "tokens": 9, "fingerprint": "c"}
    results |= {
        "audit": {"runs": [audit.as_dict()], "rerun": same, "taken_twice": same, "passed": passed},
        "corpus": {"training": side, "held_out": side, "vocabulary_size": 1024, "seconds": 3.0},
        "events": [(61.5, "kill -9 of the server & more")],
        "machine": {"cores": 2, "processor": "x", "python": "3", "torch": "2"},
        "date": "2026-01-01 00:00",
        "seconds": 80.0,
    }
    disturbance = Disturbance(
        server_killed_at={TST: 114}, trainer_killed_at=124, resumed_at=112, taken_before={112: 2.0, 121: 3.0}
    )
    pictures = report.pictures_of(records, places, disturbance, dict.fromkeys(range(112, 128), 3.0))
    return report.write_report(folder, results, pictures).read_text(), results


SHORT_RUNS, LONG_RUNS = (TST,), (TST, BASELINE)


class Outside(HTMLParser):
    """Collects what a page loads or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attributes:
            if (
                name in ("src", "href", "xlink:href", "data")
                and tag != "a"
                and not (value or "").startswith(("#", "data:"))
            ):
                self.loaded.append(f"{tag} {name}={value}")


@pytest.mark.parametrize(("names", "num_pictures"), [(SHORT_RUNS, 4), (LONG_RUNS, 6)])
def test_the_page_loads_nothing_from_outside(names: tuple[str, ...], num_pictures: int, tmp_path: Path) -> None:
    text, _ = write(tmp_path, names)
    page = Outside()
    page.feed(text)
    assert page.loaded == []
    assert page.tags["svg"] == num_pictures
    assert "script" not in page.tags
    assert re.findall(r"url\((?!#)", text) == []


def missing(text: str, *expected: str) -> list[str]:
    return [each for each in expected if each not in text]


def test_the_short_demo_says_first_what_the_audit_found_and_then_that_a_gain_needs_a_longer_run(tmp_path: Path) -> None:
    text, _ = write(tmp_path, SHORT_RUNS)
    headline = text[text.index('class="headline"') : text.index("<h2>")]
    assert (
        missing(
            headline,
            "<b>Audit passed</b>: 400 steps, 6,400 windows; nothing lost, repeated or changed",
            "identical to those of an undisturbed training",
            "A gain needs a longer run than this one",
            "2.309 with superposition against 2.357 without (0.53M parameters, 16,000 steps)",
            "2.814 against 2.850 (0.23M parameters, 14,000 steps)",
            "3.123 against 3.143 (11,600 steps, a speed-up of 1.01)",
            "docs/concepts/results.md#on-a-small-machine",
            "At equal data superposition loses.",
            "<code>make demo-long</code>",
        )
        == []
    )
    assert missing(text, "1:10", "identical over 1 steps", "kill -9 of the server &amp; more", "bag loss") == []
    assert "baseline" not in text


def test_the_long_demo_says_first_how_both_compare(tmp_path: Path) -> None:
    text, _ = write(tmp_path, LONG_RUNS)
    headline = text[text.index('class="headline"') : text.index("<h2>")]
    assert missing(headline, "TST ends <b>worse</b> than the baseline", "one seed", "<b>Audit passed</b>") == []
    assert missing(text, "Speed-up at equal loss: not reached", "2.676 with TST against 2.640", "1:01") == []


def test_a_failed_audit_is_said_first(tmp_path: Path) -> None:
    text, results = write(tmp_path, SHORT_RUNS, passed=False)
    assert "<p><b>Audit FAILED</b>: 400 steps, 6,400 windows;" in text
    assert report.audit_sentence(results["audit"]).startswith("Audit FAILED: 400 steps")


def test_results_are_json_with_each_series_apart(tmp_path: Path) -> None:
    write(tmp_path, LONG_RUNS)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["runs"][TST]["raw_tokens"] == 1.9 * results["runs"][BASELINE]["raw_tokens"]
    assert results["spike"]["first"] > results["spike"]["baseline"]
    assert results["held_out_curves"][TST]["step"][-1] == 400


def test_the_picture_for_the_readme_is_small(tmp_path: Path) -> None:
    write(tmp_path, SHORT_RUNS)
    assert (tmp_path / "demo-report.png").stat().st_size < 150_000


def test_the_table_of_the_long_demo_has_both_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.print_table(write(tmp_path, LONG_RUNS)[1])
    shown = capsys.readouterr().out
    assert re.search(r"^ +TST +baseline$", shown, flags=re.MULTILINE)
    assert (
        missing(shown, "lost 0, repeated 0", "not reached", "TST ends worse than the baseline", "Audit passed: ") == []
    )


def test_the_table_of_the_short_demo_ends_with_the_audit_and_what_a_gain_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.print_table(write(tmp_path, SHORT_RUNS)[1])
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +TST", lines[0])
    assert lines[-2].startswith("Audit passed: 400 steps, 6,400 windows; nothing lost, repeated or changed")
    assert lines[-1].startswith("A gain needs a longer run than this one")
