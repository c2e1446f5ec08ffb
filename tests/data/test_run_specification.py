"""The run file: what is read, what is refused, and what makes two runs the same.

python -m pytest tests/data/test_run_specification.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.run.run_file import load_run, parse_run
from tst_data.run.specification import RunSpecification

TEXT = """\
name: wiki-s4
datasets:
  - {path: ./data/wiki, weight: 1.0}
sequence_length: 512
batch_size: 64
seed: 17
phases:
  - {bag_size: 4, steps: 3000}
  - {bag_size: 1, steps: 7000}
"""


def parse(text: str) -> RunSpecification:
    return parse_run(text, Path("runs")).specification


def test_canonical_form_has_every_default_and_is_a_run_file() -> None:
    canonical = parse(TEXT).canonical()
    assert canonical == {
        "name": "wiki-s4",
        "datasets": [{"path": "./data/wiki", "weight": 1.0}],
        "sequence_length": 512,
        "batch_size": 64,
        "seed": 17,
        "shuffle_group": 64,
        "phases": [
            {
                "bag_size": s,
                "steps": steps,
                "superpose": "both",
                "batch_size": 64,
                "sequence_length": 512,
                "weights": [1.0],
            }
            for s, steps in ((4, 3000), (1, 7000))
        ],
    }
    assert parse(yaml.safe_dump(canonical)).canonical() == canonical
    assert parse(json.dumps(canonical)).fingerprint(["a"]) == parse(TEXT).fingerprint(["a"])


def test_paths_start_from_the_run_file(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "wiki.yaml"
    path.parent.mkdir()
    path.write_text(TEXT)
    assert load_run(path).dataset_paths() == (tmp_path / "runs" / "data" / "wiki",)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: wiki-s4", "name: other"),
        ("./data/wiki", "/elsewhere"),
        ("weight: 1.0", "weight: 2.5"),
        ("seed: 17", "seed: 17\nshuffle_group: 64"),
        ("bag_size: 1,", "bag_size: 1, batch_size: 64, superpose: both,"),
    ],
)
def test_what_does_not_change_a_batch_is_not_part_of_the_identity(old: str, new: str) -> None:
    assert old in TEXT
    assert parse(TEXT.replace(old, new)).fingerprint(["a"]) == parse(TEXT).fingerprint(["a"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 17", "seed: 18"),
        ("seed: 17", "seed: 17\nshuffle_group: all"),
        ("batch_size: 64", "batch_size: 32"),
        ("sequence_length: 512", "sequence_length: 511"),
        ("bag_size: 4", "bag_size: 5"),
        ("steps: 7000", "steps: 7001"),
        ("steps: 7000", "steps: 7000, superpose: input"),
    ],
)
def test_what_changes_a_batch_is(old: str, new: str) -> None:
    assert old in TEXT
    assert parse(TEXT.replace(old, new)).fingerprint(["a"]) != parse(TEXT).fingerprint(["a"])


def test_the_data_is_part_of_the_identity() -> None:
    assert parse(TEXT).fingerprint(["a"]) != parse(TEXT).fingerprint(["b"])


def test_golden_fingerprint() -> None:
    """A changed fingerprint makes every checkpoint foreign: only with a new ORDER_VERSION."""
    assert parse(TEXT).fingerprint(["a"]) == "532ca2192e977c8372a5ee4baef7e490f86222232fee4ec429496ef9e0eea173"


def clipped(*steps: int) -> str:
    """The run file with the first phases ended after so many steps."""
    head, *phases = TEXT.split("  - {bag")
    return head + "".join(
        f"  - {{bag{phase}".replace("3000" if index == 0 else "7000", str(steps[index]))
        for index, phase in enumerate(phases)
        if index < len(steps)
    )


@pytest.mark.parametrize(
    ("step", "steps"), [(1, (1,)), (2999, (2999,)), (3000, (3000,)), (3001, (3000, 1)), (10_000, (3000, 7000))]
)
def test_a_prefix_fingerprint_is_the_fingerprint_of_the_run_that_ends_there(step: int, steps: tuple[int, ...]) -> None:
    assert parse(TEXT).prefix_fingerprint(["a"], step) == parse(clipped(*steps)).fingerprint(["a"])


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("steps: 7000", "steps: 7001", 10_001),
        ("steps: 7000", "steps: 4000", 7001),
        ("steps: 3000", "steps: 2000", 2001),
        ("steps: 3000", "steps: 3001", 3001),
        ("steps: 7000", "steps: 7000, superpose: input", 3001),
        ("steps: 7000", "steps: 7000, batch_size: 65", 3001),
        ("bag_size: 1", "bag_size: 2", 3001),
        ("bag_size: 4", "bag_size: 5", 1),
        ("seed: 17", "seed: 18", 0),
        ("seed: 17", "seed: 17\nshuffle_group: 63", 0),
        ("batch_size: 64", "batch_size: 32", 1),
        ("name: wiki-s4", "name: other", None),
        ("weight: 1.0", "weight: 3", None),
    ],
)
def test_a_change_is_in_every_prefix_from_its_step_on(old: str, new: str, first: int | None) -> None:
    """`first` is the first prefix that holds the change; None where it is not part of the identity."""
    assert old in TEXT
    before, after = parse(TEXT), parse(TEXT.replace(old, new))
    for step in (0, 1, 2000, 2001, 2999, 3000, 3001, 3002, 7000, 7001, 10_000, 10_001):
        same = before.prefix_fingerprint(["a"], step) == after.prefix_fingerprint(["a"], step)
        assert same == (first is None or step < first), step


def test_golden_prefix_fingerprints() -> None:
    """They are in checkpoints: a changed one makes every checkpoint foreign."""
    assert {step: parse(TEXT).prefix_fingerprint(["a"], step) for step in GOLDEN_PREFIXES} == GOLDEN_PREFIXES


GOLDEN_PREFIXES = {
    0: "78e1180594906b9516e928c85c0efb2622d39eaacdf808c98fce005f9e29b895",
    3000: "eeb1447b1461d9a9e05fee05e20d58f5cbb789cae69ea7568c0b79bb11318f79",
    3001: "f0053c8c7eefea08515d31121465d4238b0211a5a91eed8c9294b94d02cebe38",
    10_000: "532ca2192e977c8372a5ee4baef7e490f86222232fee4ec429496ef9e0eea173",
}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 17", "sed: 17", "unknown key 'sed'"),
        ("bag_size: 4", "bagsize: 4", "unknown key 'phases.0.bagsize'"),
        ("path:", "folder: x, path:", "unknown key 'datasets.0.folder'"),
        ("bag_size: 4", "bag_size: 0", r"'phases.0.bag_size': expected at least 1 \(given: 0\)"),
        ("bag_size: 4", "bag_size: -3", r"given: -3"),
        ("bag_size: 4", "bag_size: '4'", r"'phases.0.bag_size': expected a whole number \(given: '4'\)"),
        ("bag_size: 4", "bag_size: true", r"given: true"),
        ("bag_size: 4", "bag_size: 4.5", r"given: 4.5"),
        (
            "bag_size: 4",
            "bag_size: 400000000000",
            "'phases.0': windows of .*, expected at most 1,073,741,824; lower bag_size or sequence_length",
        ),
        ("steps: 7000", "steps: 0", r"'phases.1.steps'.*given: 0"),
        ("batch_size: 64", "batch_size: 0", "'batch_size'"),
        ("sequence_length: 512", "sequence_length: 0", "'sequence_length'"),
        ("weight: 1.0", "weight: -1", r"'datasets.0.weight'.*given: -1"),
        ("weight: 1.0", "weight: 0", "'phases.0': no dataset has a positive weight"),
        ("weight: 1.0", "weight: .nan", "finite"),
        ("weight: 1.0", "weight: .inf", "finite"),
        ("steps: 7000", "steps: 7000, weights: [0]", "'phases.1': no dataset has a positive weight"),
        ("steps: 7000", "steps: 7000, weights: [1, 2]", "'phases.1': 2 weights for 1 datasets"),
        ("steps: 7000", "steps: 7000, superpose: all", "'both', 'input' or 'output'"),
        (
            "steps: 7000",
            "steps: 4611686018427387903",
            "'phases.1': up to its end the run reads .* lower steps or batch_size",
        ),
        ("weight: 1.0", "weight: true", "'datasets.0.weight'.*given: true"),
        ("weight: 1.0", "weight: yes", "'datasets.0.weight'.*given: 'yes'"),
        ("weight: 1.0", "weight: '1'", "'datasets.0.weight'.*given: '1'"),
        ("seed: 17", "seed: -1", "given: -1"),
        ("seed: 17", "seed: 1\nseed: 2", "line 7, column 1: .*the key 'seed' appears twice"),
        ("seed: 17", "shuffle_group: 0", "at least 1, or 'all'"),
        ("seed: 17", "shuffle_group: some", "at least 1, or 'all'"),
        ("name: wiki-s4", "name: Wiki", "'name'.*given: 'Wiki'"),
        ("name: wiki-s4", "name: ../etc", "'name'"),
        ("name: wiki-s4", f"name: {'a' * 65}", "'name'.*64"),
        ("name: wiki-s4\n", "", "'name' is missing"),
        ("phases:", "phases: []\nphase:", "unknown key 'phase'"),
        ("name:", "name", r"^line 2, column 9: not valid YAML or JSON \(mapping values are not allowed here\)"),
        ("  - {bag_size: 4", "  - bag_size: 4", r"^line 8, column 23: not valid YAML or JSON \("),
        ("seed: 17", "seed: \x00", r"^line 6, column 7: not valid YAML or JSON \(special characters are not allowed\)"),
        ("batch_size: 64", "batch_size: null", r"'batch_size': expected a whole number \(given: null\)"),
    ],
)
def test_bad_run_files_are_refused_in_one_line(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(InvalidInputError, match=message) as caught:
        parse(TEXT.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "just words", "{" * 3000, "a: &a [*a]", "? [1]\n: 2", "\0", TEXT.split("  - {bag")[0]]
)
def test_something_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"absent\.yaml': does not exist"):
        load_run(tmp_path / "absent.yaml")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_run(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InvalidInputError, match=r"binary\.yaml': is not UTF-8 text"):
        load_run(tmp_path / "binary.yaml")


def test_object_stores_are_refused_for_now() -> None:
    with pytest.raises(
        InvalidInputError, match=r"^run 'wiki-s4': 'datasets\.0\.path': 's3://bucket/wiki' is in an object store"
    ):
        parse_run(TEXT.replace("./data/wiki", "s3://bucket/wiki"), Path()).dataset_paths()


def test_a_dataset_that_joins_for_a_later_phase_changes_no_prefix_before_it() -> None:
    alone = parse(TEXT)
    content = {**alone.canonical(), "phases": [{**phase, "weights": [1, 0]} for phase in alone.canonical()["phases"]]}
    content["datasets"] = [*content["datasets"], {"path": "./more"}]
    later = {**content["phases"][-1], "weights": [1, 1], "steps": 7}
    joined = RunSpecification.model_validate({**content, "phases": [*content["phases"], later]})
    total = sum(phase.steps for phase in alone.phases)
    for step in (0, 1, 2999, 3000, 3001, total):
        assert joined.prefix_fingerprint(["a", "b"], step) == alone.prefix_fingerprint(["a"], step)
    assert joined.prefix_fingerprint(["a", "b"], total + 1) != joined.prefix_fingerprint(["a", "c"], total + 1)
    assert joined.prefix_fingerprint(["c", "b"], 0) != joined.prefix_fingerprint(["a", "b"], 0)
