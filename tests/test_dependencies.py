"""Who must install what: only the extra `convert` has upper bounds and large libraries."""

from __future__ import annotations

import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
FOR_CONVERSION_ONLY = {"boto3", "datasets", "google-cloud-storage", "mosaicml-streaming", "pandas", "torchvision"}


def requirements_of(extra: str | None) -> list[Requirement]:
    """What the distribution itself needs, with one of its extras."""
    listed = PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else [])
    return [Requirement(line) for line in listed]


def installed_with(extra: str | None) -> set[str]:
    """The names of all distributions that come with it, directly or not, by the metadata of those installed here."""
    found: set[tuple[str, str]] = set()
    waiting = requirements_of(extra)
    while waiting:
        requirement = waiting.pop()
        for wanted in {"", *requirement.extras}:
            if (requirement.name, wanted) not in found:
                found.add((requirement.name, wanted))
                needed = map(Requirement, requires(requirement.name) or ())
                waiting += [each for each in needed if not each.marker or each.marker.evaluate({"extra": wanted})]
    return {name.lower().replace("_", "-") for name, _ in found}


@pytest.mark.parametrize("extra", [None, "serve", "train"])
def test_nodes_inherit_no_upper_bound(extra: str | None) -> None:
    bounded = [str(each) for each in requirements_of(extra) if {one.operator for one in each.specifier} - {">="}]
    assert bounded == []


@pytest.mark.parametrize("extra", [None, "serve", "train"])
def test_nodes_need_no_library_of_the_conversion(extra: str | None) -> None:
    assert installed_with(extra) & FOR_CONVERSION_ONLY == set()


@pytest.mark.needs_streaming
def test_the_conversion_needs_them() -> None:
    """So the walk through the metadata finds what it looks for."""
    assert installed_with("convert") >= FOR_CONVERSION_ONLY
