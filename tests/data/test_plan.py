"""The plan over real datasets: batches, shares, identity, refusals. python -m pytest tests/data/test_plan.py"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import MakeRun
from tst_data import Plan, load_run
from tst_data.contract.batch import checksum
from tst_data.dataset.journal import Journal
from tst_data.dataset.manifest import dataset_fingerprint, write_manifest
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import write_dataset
from tst_data.errors import DamagedDataError, ForeignDataError, InvalidInputError, NotFoundError
from tst_data.inspection.plan_report import report_plan
from tst_data.plan.dataset_checks import Overlap, overlaps
from tst_data.run.run_file import parse_run

THREE_PHASES = [
    {"bag_size": 4, "steps": 5},
    {"bag_size": 3, "steps": 4, "superpose": "output", "batch_size": 6},
    {"bag_size": 1, "steps": 6, "sequence_length": 32},
]


@pytest.fixture
def run(make_run: MakeRun, tiny_dataset: Dataset) -> Path:
    return make_run(tiny_dataset, phases=THREE_PHASES, batch_size=12)


def test_a_batch_holds_the_tokens_that_its_windows_name(run: Path, tiny_dataset: Dataset) -> None:
    stream = tiny_dataset.read(0, tiny_dataset.num_tokens)
    with Plan(load_run(run)) as plan:
        assert plan.num_steps == 15
        for step in range(plan.num_steps):
            batch, phase = plan.read_batch(step), plan.phase(step)
            assert batch.windows.shape == (phase.batch_size, phase.window_length)
            assert batch.header.checksum == checksum(batch.windows)
            assert (batch.header.step, batch.header.phase) == (step, phase.phase)
            for row, first in zip(batch.windows, batch.first_token.tolist(), strict=True):
                assert np.array_equal(row, stream[first : first + phase.window_length])


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_ranks_together_are_the_step(run: Path, world_size: int) -> None:
    with Plan(load_run(run)) as plan:
        for step in range(plan.num_steps):
            shares = [plan.read_batch(step, rank, world_size) for rank in range(world_size)]
            whole = plan.read_batch(step)
            for name in ("windows", "dataset", "first_token"):
                assert np.array_equal(np.concatenate([getattr(share, name) for share in shares]), getattr(whole, name))


def test_a_copy_elsewhere_gives_the_same_run(run: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_dataset.path, tmp_path / "copy")
    content = yaml.safe_load(run.read_text()) | {"name": "renamed", "datasets": [{"path": "copy"}]}
    other = tmp_path / "renamed.yaml"
    other.write_text(yaml.safe_dump(content))
    with Plan(load_run(run)) as plan, Plan(load_run(other)) as copied:
        assert copied.fingerprint == plan.fingerprint
        assert np.array_equal(plan.read_batch(14).windows, copied.read_batch(14).windows)
    assert copy.is_dir()


def test_a_mixture_takes_each_row_from_its_dataset(make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path) -> None:
    ones = [np.full(300, 1)] * 40
    with write_dataset(tmp_path / "ones", ones, vocabulary_size=256, end_of_text_id=255, dtype=None):
        pass
    run = make_run([{"path": str(tiny_dataset.path), "weight": 3}, {"path": str(tmp_path / "ones")}], batch_size=1000)
    with Plan(load_run(run)) as plan:
        batch = plan.read_batch(0)
        assert np.bincount(batch.dataset).tolist() == [750, 250]
        of_ones = batch.windows[batch.dataset == 1]
        assert np.isin(of_ones, [1, 255]).all()
        for row, first in zip(of_ones, batch.first_token[batch.dataset == 1].tolist(), strict=True):
            assert np.array_equal(row, plan.datasets[1].read(first, len(row)))


def test_description(run: Path, tiny_dataset: Dataset) -> None:
    with Plan(load_run(run)) as plan:
        described = plan.describe()
    assert [phase.first_step for phase in described.phases] == [0, 5, 9]
    assert [phase.tokens for phase in described.phases] == [5 * 12 * 16 * 4, 4 * 6 * 16, 6 * 12 * 32]
    assert [phase.latent_positions for phase in described.phases] == [5 * 12 * 16, 4 * 6 * 16, 6 * 12 * 32]
    assert described.total_tokens == sum(phase.tokens for phase in described.phases)
    assert (described.total_steps, described.dtype) == (15, "uint16")
    assert (described.vocabulary_size, described.end_of_text_id) == (256, 255)
    assert described.phase(8).phase == 1
    with pytest.raises(NotFoundError, match=r"run '.*': has no step 15; choose 0 to 14"):
        described.phase(15)


def _at(run_file: Path, dataset: int, problem: str) -> str:
    """The beginning of a message about a dataset of a run, as a pattern."""
    return "^" + re.escape(f"run file '{run_file}': 'datasets.{dataset}.path': {problem}")


def test_refusals(make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path) -> None:
    twice = make_run([tiny_dataset, tiny_dataset], name="twice")
    with pytest.raises(
        InvalidInputError, match=_at(twice, 1, f"dataset '{tiny_dataset.path}': is the same as 'datasets.0")
    ):
        Plan(load_run(twice))
    absent = make_run(tmp_path / "absent", name="absent")
    with pytest.raises(NotFoundError, match=_at(absent, 0, f"dataset '{tmp_path / 'absent'}': does not exist; give ")):
        Plan(load_run(absent))
    large = make_run(tiny_dataset, name="large", sequence_length=5000)
    with pytest.raises(
        InvalidInputError, match=r"large\.yaml': 'phases.0': needs windows of 20,001 tokens, but the longest .* 4,096"
    ):
        Plan(load_run(large))
    revision = make_run([{"path": str(tiny_dataset.path), "revision": "0" * 64}], name="revision")
    with pytest.raises(
        ForeignDataError, match=f"revision\\.yaml': 'datasets.0.revision': .*{tiny_dataset.fingerprint}.*{'0' * 64}"
    ):
        Plan(load_run(revision))
    right = make_run([{"path": str(tiny_dataset.path), "revision": tiny_dataset.fingerprint}], name="right")
    Plan(load_run(right)).close()


def test_a_bad_dataset_keeps_its_error_and_names_the_run_file_and_the_key(
    make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_dataset.path, tmp_path / "copy"))
    run = make_run([tiny_dataset, folder])
    (folder / "shards.parquet").write_bytes(b"damaged")
    with pytest.raises(DamagedDataError, match=_at(run, 1, f"{folder / 'shards.parquet'}: has hash ")):
        Plan(load_run(run))
    Journal(folder, {}).close()
    with pytest.raises(InvalidInputError, match=_at(run, 1, f"dataset '{folder}': its conversion is not finished; ")):
        Plan(load_run(run))
    nameless = parse_run(run.read_text(), tmp_path)
    with pytest.raises(InvalidInputError, match=r"^run 'test': 'datasets\.1\.path': "):
        Plan(nameless)


def test_datasets_of_different_tokenizers_are_refused(make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path) -> None:
    with write_dataset(tmp_path / "other", [[1] * 500], vocabulary_size=300, end_of_text_id=255):
        pass
    with pytest.raises(
        InvalidInputError, match=r"'datasets\.1\.path': .*: was made with another tokenizer .* than 'datasets\.0\.path'"
    ):
        Plan(load_run(make_run([tiny_dataset, tmp_path / "other"])))


def test_datasets_of_another_dtype_are_refused(make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path) -> None:
    """The windows of a batch have one dtype; it was found out only when a batch was read."""
    with write_dataset(tmp_path / "wide", [[1] * 500], vocabulary_size=256, end_of_text_id=255, dtype="uint32"):
        pass
    with pytest.raises(
        InvalidInputError,
        match=r"'datasets\.1\.path': .*: was made with another tokenizer .*, uint32\) than .*, uint16",
    ):
        Plan(load_run(make_run([tiny_dataset, tmp_path / "wide"])))


def write_shards(folder: Path, *documents: int) -> Path:
    """A dataset of one shard of 64 tokens for each document."""
    with write_dataset(
        folder,
        [[document] * 63 for document in documents],
        vocabulary_size=256,
        end_of_text_id=255,
        sample_tokens=64,
        shard_tokens=64,
    ):
        return folder


def test_the_same_shards_in_another_order_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    first, second = write_shards(tmp_path / "first", 1, 2, 3), write_shards(tmp_path / "second", 3, 1, 2)
    part, other = write_shards(tmp_path / "part", 1, 9), write_shards(tmp_path / "other", 4)
    run = make_run([part, other, first, second])
    with pytest.raises(
        InvalidInputError, match=_at(run, 3, f"dataset '{second}': has the same shards as 'datasets.2.path', under ")
    ):
        Plan(load_run(run))


@pytest.mark.parametrize("larger_first", [True, False])
def test_a_dataset_that_has_all_shards_of_another_is_refused(
    make_run: MakeRun, tmp_path: Path, larger_first: bool
) -> None:
    datasets = [write_shards(tmp_path / "larger", 1, 2, 3), write_shards(tmp_path / "smaller", 2, 1)]
    run = make_run(datasets if larger_first else datasets[::-1])
    with pytest.raises(InvalidInputError, match=r"shares all shards of one with 'datasets\.0\.path', under another"):
        Plan(load_run(run))


def test_the_same_shards_under_another_end_of_text_id_are_refused(
    make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_dataset.path, tmp_path / "copy"))
    fingerprint = dataset_fingerprint(
        tokenizer_hash=tiny_dataset.manifest.tokenizer.hash,
        end_of_text_id=254,
        vocabulary_size=256,
        dtype="uint16",
        shard_tokens=tiny_dataset.shard_tokens,
        shard_hashes=tiny_dataset.shard_hashes,
    )
    assert fingerprint != tiny_dataset.fingerprint
    write_manifest(folder, tiny_dataset.manifest.model_copy(update={"end_of_text_id": 254, "fingerprint": fingerprint}))
    run = make_run([tiny_dataset, folder])
    with pytest.raises(
        InvalidInputError, match=_at(run, 1, f"dataset '{folder}': has the same shards as 'datasets.0.path', under ")
    ):
        Plan(load_run(run))


def test_shards_in_two_datasets_are_warned_of(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [
        write_shards(tmp_path / "first", 1, 2, 3),
        write_shards(tmp_path / "second", 3, 4, 5, 1),
        write_shards(tmp_path / "third", 6, 7),
        write_shards(tmp_path / "fourth", 1, 4, 8),
    ]
    run = make_run(folders, sequence_length=8, phases=[{"bag_size": 1, "steps": 1}])
    with Plan(load_run(run)) as plan:
        assert overlaps(plan.datasets) == [Overlap(0, 1, 2, 2, 128), Overlap(0, 3, 1, 1, 64), Overlap(1, 3, 2, 2, 128)]
        warnings = report_plan(plan, step_seconds=1).warnings
    assert warnings[0] == (
        f"dataset '{folders[1]}': 2 of its 4 shards (128 tokens) are in dataset '{folders[0]}' too, and are read from "
        "both; leave them out of one"
    )


def test_report_counts_and_warns(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    many = make_run(tiny_dataset, phases=[{"bag_size": 1, "steps": 3}, {"bag_size": 60, "steps": 40}])
    with Plan(load_run(many)) as plan:
        report = report_plan(plan, step_seconds=0.5)
    first, second = report.phases
    assert first.tokens == 3 * 4 * 16
    assert first.tokens_per_second == 4 * 16 / 0.5
    assert second.bytes_per_second == 4 * (16 * 60 + 1) * 2 / 0.5
    assert report.total_tokens == first.tokens + second.tokens
    text = "\n".join(report.warnings)
    assert "data is repeated" in text
    assert "are skipped at the switch" in text
    assert second.datasets[0].last_epoch > 2


def test_a_run_without_waste_warns_of_nothing(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    with Plan(load_run(make_run(tiny_dataset))) as plan:
        assert report_plan(plan, step_seconds=1).warnings == []


@pytest.mark.parametrize(("left", "warned"), [(4, False), (6, True)])
def test_what_the_switch_skips_is_warned_of_from_a_twentieth_on(tmp_path: Path, left: int, warned: bool) -> None:
    """100 windows of 8 in one shard; with `left` of them to go, a switch to windows of 16 skips those."""
    with write_dataset(tmp_path / "d", [[1] * 800], vocabulary_size=9, end_of_text_id=0, sample_tokens=801):
        pass
    run = parse_run(
        "{name: r, datasets: [{path: d}], sequence_length: 8, batch_size: 1, phases: "
        f"[{{bag_size: 1, steps: {100 - left}}}, {{bag_size: 2, steps: 1}}]}}",
        tmp_path,
    )
    with Plan(run) as plan:
        warnings = report_plan(plan, step_seconds=1).warnings
    assert any("at the switch" in warning for warning in warnings) == warned


@pytest.mark.parametrize(("sequence_length", "warned"), [(96, False), (470, True)])
def test_what_is_left_at_shard_ends_is_warned_of_from_a_twentieth_on(
    tmp_path: Path, sequence_length: int, warned: bool
) -> None:
    """One shard of 1,000 tokens: windows of 96 leave 40 of them, windows of 470 leave 60."""
    with write_dataset(tmp_path / "d", [[1] * 999], vocabulary_size=9, end_of_text_id=0, sample_tokens=1000):
        pass
    text = (
        f"{{name: r, datasets: [{{path: d}}], sequence_length: {sequence_length}, batch_size: 1, "
        "phases: [{bag_size: 1, steps: 1}]}"
    )
    with Plan(parse_run(text, tmp_path)) as plan:
        warnings = report_plan(plan, step_seconds=1).warnings
    assert any("ends of shards" in warning for warning in warnings) == warned
