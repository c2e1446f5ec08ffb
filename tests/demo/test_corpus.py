"""The demo's corpus, and its run and training files. python -m pytest tests/demo/test_corpus.py"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.demo.corpus import Package, find_packages, held_out_sources, split_packages
from benchmarks.demo.settings import BASELINE, LONG, SHORT, TST, DemoSettings, Places, run_document, write_files
from trainer_client.trainer.config import load_train_config
from tst_data.errors import InvalidInputError
from tst_data.run.run_file import load_run
from tst_data.run.specification import RunSpecification


def package(name: str, *files: tuple[str, int]) -> Package:
    return Package(name=name, path=Path("/packages") / name, files=files)


def packages(sizes: dict[str, int]) -> list[Package]:
    return [package(name, ("__init__.py", size)) for name, size in sizes.items()]


MANY = {f"package{number}": 1000 + 137 * number for number in range(60)}


def names(found: tuple[Package, ...]) -> set[str]:
    return {each.name for each in found}


def test_a_package_is_on_one_side_only() -> None:
    split = split_packages(packages(MANY), training_bytes=150_000, held_out_bytes=30_000)
    assert names(split.training) & names(split.held_out) == set()
    assert names(split.training) | names(split.held_out) | names(split.left_out) == set(MANY)
    assert 75_000 <= split.training_bytes <= 150_000
    assert split.held_out_bytes >= 30_000


def test_the_split_does_not_depend_on_the_order_of_the_packages() -> None:
    forwards = split_packages(packages(MANY), training_bytes=150_000, held_out_bytes=30_000)
    backwards = split_packages(packages(MANY)[::-1], training_bytes=150_000, held_out_bytes=30_000)
    assert forwards == backwards


def test_a_package_that_another_one_contains_a_copy_of_is_not_held_out() -> None:
    free = split_packages(packages(MANY), training_bytes=400_000, held_out_bytes=30_000)
    copied = free.held_out[0].name
    carrier = package("carrier", ("__init__.py", 500), (f"_vendor/{copied}/core.py", 500))
    split = split_packages([*packages(MANY), carrier], training_bytes=400_000, held_out_bytes=30_000)
    assert copied not in names(split.held_out)
    assert copied in names(split.training)


def test_too_little_text_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        InvalidInputError, match=r"^installed packages: hold 0 .* 1,500 to hold out \(expected at least 500,000"
    ):
        split_packages(packages({"one": 500, "two": 1000}), training_bytes=1_000_000, held_out_bytes=30_000)


def test_packages_are_found_with_their_python_files(tmp_path: Path) -> None:
    (tmp_path / "alpha" / "inner").mkdir(parents=True)
    (tmp_path / "alpha" / "inner" / "core.py").write_text("a = 1\n")
    (tmp_path / "alpha" / "data.json").write_text("{}")
    (tmp_path / "alpha-1.0.dist-info").mkdir()
    (tmp_path / "alpha-1.0.dist-info" / "METADATA").write_text("x")
    (tmp_path / "single.py").write_text("b = 2\n")
    (tmp_path / "oci").mkdir()
    (tmp_path / "oci" / "generated.py").write_text("c = 3\n")
    (tmp_path / "__editable___x_finder.py").write_text("d = 4\n")
    found = find_packages([tmp_path])
    assert [(each.name, each.files) for each in found] == [
        ("alpha", (("inner/core.py", 6),)),
        ("single", (("", 6),)),
    ]
    assert set(held_out_sources(found)) == {str(tmp_path / "alpha" / "inner" / "core.py"), str(tmp_path / "single.py")}
    assert found[0].inner_names == {"inner", "core"}


def test_this_environment_has_enough_text_for_the_demo() -> None:
    split = split_packages(find_packages(), training_bytes=SHORT.training_bytes, held_out_bytes=SHORT.held_out_bytes)
    assert len(split.held_out) > 3


def of_steps(settings: DemoSettings, steps: int) -> DemoSettings:
    return dataclasses.replace(settings, steps=steps)


@pytest.mark.parametrize("settings", [SHORT, LONG, of_steps(SHORT, 200), of_steps(LONG, 11_600)])
def test_the_kills_are_around_the_switch_and_after_a_checkpoint(settings: DemoSettings) -> None:
    places = Places.of(settings)
    assert settings.steps % 200 == 0
    assert places.checkpoint % places.checkpoint_every == 0
    assert places.checkpoint < places.kill_server < places.switch < places.kill_trainer
    assert places.kill_trainer < places.checkpoint + places.checkpoint_every
    assert places.switch % places.evaluate_every == 0


def test_both_runs_take_the_same_steps_and_latent_positions() -> None:
    settings = of_steps(LONG, 1000)
    runs = {name: RunSpecification.model_validate(run_document(name, settings)) for name in (TST, BASELINE)}
    steps = {name: sum(phase.steps for phase in run.phases) for name, run in runs.items()}
    assert steps == {TST: 1000, BASELINE: 1000}
    assert [phase.bag_size for phase in runs[TST].phases] == [4, 1]
    assert runs[TST].phases[0].steps == 300
    assert [phase.bag_size for phase in runs[BASELINE].phases] == [1]
    assert {run.seed for run in runs.values()} == {LONG.seed}


def test_the_files_written_are_a_run_and_a_configuration(tmp_path: Path) -> None:
    write_files(tmp_path, of_steps(SHORT, 1000))
    assert load_run(tmp_path / "tst.yaml").specification.phases[1].steps == 700
    assert not (tmp_path / "baseline.yaml").exists()
    config = load_train_config(tmp_path / "training.yaml")
    assert config.log_every == 1
    assert config.evaluation is not None
    assert config.evaluation.dataset == str(tmp_path / "data" / "held-out")


def test_the_long_demo_has_a_run_for_the_baseline_too(tmp_path: Path) -> None:
    write_files(tmp_path, LONG)
    assert load_run(tmp_path / "baseline.yaml").specification.phases[0].steps == LONG.steps
