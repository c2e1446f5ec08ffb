"""JSON is read as JSON and YAML by the core schema of YAML 1.2. python -m pytest tests/data/test_structured_text.py"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tst_data.errors import InvalidInputError
from tst_data.run.run_file import load_run, parse_run
from tst_data.run.specification import RunSpecification
from tst_data.structured_text import parse_structured


def bomb(levels: int, use: str) -> str:
    """Each line uses the one before twice, so reading it by aliases doubles the work with each line."""
    lines = (f"a{level}: &a{level}\n  {use}: [*a{level - 1}, *a{level - 1}]" for level in range(1, levels))
    return "a0: &a0 {k: v}\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None), ("~", None), ("", None), ("Null", None), ("nULL", "nULL"),
        ("true", True), ("FALSE", False), ("tRUE", "tRUE"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("10", 10), ("-10", -10), ("+10", 10), ("0", 0), ("0o10", 8), ("0x1F", 31), ("0b11", "0b11"), 
        ("1_000", "1_000"),
        ("1e3", 1000.0), ("1.5E-3", 0.0015), (".5", 0.5), ("5.", 5.0), ("+1.5", 1.5), ("1e", "1e"), (".", "."),
        (".inf", math.inf), ("-.INF", -math.inf), ("inf", "inf"), ("nan", "nan"),
        ("1:30", "1:30"), ("1:30:00", "1:30:00"), ("2026-01-01", "2026-01-01"),
        ("2026-01-01 10:00:00", "2026-01-01 10:00:00"),
        ("=", "="), ("1.2.3", "1.2.3"), ("0x", "0x"), ("-", [None]), ("'010'", "010"), ('"1e3"', "1e3"), ("'<<'", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: Any) -> None:
    found = parse_structured(text)
    assert found == value
    assert type(found) is type(value)
    if text != "-":
        assert parse_structured(f"a: {text}") == {"a": value}


def test_nan_is_a_number_in_yaml() -> None:
    assert math.isnan(parse_structured(".nan"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 010", "line 1, column 4: the number 010 begins with 0; write 10, or put it in quotes if it is a string"),
        ("a: [1,\n  -08]", "line 2, column 3: the number -08 begins with 0; write -8, or"),
        ("a: 1e999", "line 1, column 4: the number 1e999 is too large"),
        ("a: " + "1" * 5000, "line 1, column 4: a number has 5,000 characters, expected at most 1,000"),
        ("a: 0x" + "f" * 5000, "line 1, column 4: a number has 5,002 characters"),
        ("a: 0" + "1" * 5000, "line 1, column 4: a number has 5,001 characters"),
        ("a: &x 1", "line 1, column 4: anchors such as &x are not read"),
        ("- &x [1]\n- *x", "line 1, column 3: anchors"),
        ("a: *x", "line 1, column 4: aliases such as *x are not read; write the value out"),
        ("a:\n  <<: {b: 1}", "line 2, column 3: merge keys (<<) are not read; write the keys out"),
        ("a: !!python/object:os.system x", "line 1, column 4: tags such as tag:yaml.org,2002:python/object"),
        ("a: !!str 1", "line 1, column 4: tags such as"),
        ("a: !x [1]", "line 1, column 4: tags such as !x are not read"),
        ("a: ! x", "line 1, column 4: tags such as ! are not read"),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' appears twice; remove one"),
        ("x: [{a: 1, 'a': 2}]", "line 1, column 12: the key 'a' appears twice"),
        ("1: x", "line 1, column 1: the key 1 is not a string; put it in quotes"),
        ("true: x", "the key true is not a string"),
        ("~: x", "the key ~ is not a string"),
        ("? [1]\n: 2", "line 1, column 3: a key is a list or a mapping; write a string"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document begins"),
        ("%YAML 1.1\n---\na: 1", "asks for another version of YAML"),
        ('a: "\\ud800"', "line 1, column 4: a string holds half a character"),
        ("[" * 65 + "]" * 65, "line 1, column 65: is nested too deeply, in more than 64 levels"),
        ("[" * 5000, "line 1, column 65: is nested too deeply"),
        ("- " * 5000, "line 1, column 129: is nested too deeply"),
        ("? " * 5000, "line 1, column 3: a key is a list or a mapping"),
        ("a: " + "x" * (1 << 18), "has 262,147 characters, expected at most 262,144; shorten it, or write it as JSON"),
        (bomb(60, "<<"), "line 1, column 5: anchors such as &a0 are not read"),
        (bomb(60, "k"), "line 1, column 5: anchors such as &a0 are not read"),
    ],
)  # fmt: skip
def test_what_yaml_does_not_give_is_named(text: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidInputError) as caught:
        parse_structured(text)
    assert message in str(caught.value)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "line 1, column 10: the key 'a' appears twice; remove one"),
        ('{"b": [\n {"a": 1, "c": {"a": 1}, "\\u0061": 2}]}', "line 2, column 26: the key 'a' appears twice"),
        ('{"a": NaN}', "line 1, column 7: NaN is not a number in JSON; write a finite one"),
        ('{"a": [1, -Infinity]}', "line 1, column 11: -Infinity is not a number in JSON"),
        ('{"a": 1e999}', "line 1, column 7: the number 1e999 is too large"),
        ('{"a": ' + "1" * 5000 + "}", "line 1, column 7: a number has 5,000 characters"),
        ('{"a": ' * 65 + "1" + "}" * 65, "line 1, column 385: is nested too deeply"),
        ('{"a": ' + "[" * 100_000, "line 1, column 70: is nested too deeply"),
        ('{"a": "\\ud800"}', "line 1, column 7: a string holds half a character"),
        ('{\n\t"a": 1\n\t"b": 2\n}', "line 3, column 2: not valid JSON (expected ','); correct it"),
        ('{"a": yes}', "line 1, column 7: not valid JSON (expected a value); correct it"),
        ('{"a": 1} x', "line 1, column 10: not valid JSON (something follows its end); correct it"),
        ('{"a": "x', "line 1, column 7: not valid JSON (a string without an end)"),
        ('{"a": "\\x"}', "line 1, column 8: not valid JSON (a backslash that escapes nothing)"),
        ('{"a": 010}', "line 1, column 8: not valid JSON (expected ',')"),
        ('{"a": "x\ny"}', "line 1, column 9: not valid JSON (a control character in a string)"),
        ("a: 1", "line 1, column 1: not valid JSON (expected a value)"),
        ("", "line 1, column 1: not valid JSON (expected a value)"),
    ],
)
def test_what_is_not_json_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_structured(text, json_only=True)
    assert message in str(caught.value)


def test_a_text_that_is_json_is_read_as_json() -> None:
    assert parse_structured('{\n\t"a": 1e3,\n\t"b": "\\/\\u00e9"}') == {"a": 1000.0, "b": "/é"}
    assert parse_structured("\ufeff{}", json_only=True) == {}
    assert parse_structured("\ufeffa: 1") == {"a": 1}
    big = 10**400
    assert parse_structured(f'{{"a": {big}}}') == parse_structured(f"a: {big}") == {"a": big}
    assert parse_structured(json.dumps({str(key): [key] for key in range(100_000)}))["99999"] == [99999]


def test_a_flow_mapping_that_is_not_json_is_yaml() -> None:
    assert parse_structured("{a: 1, 'b': [x, y], c: .5,}") == {"a": 1, "b": ["x", "y"], "c": 0.5}


def test_what_is_meant_as_json_is_judged_as_json() -> None:
    with pytest.raises(InvalidInputError, match=r"^line 3, column 2: not valid JSON \(expected ','\)"):
        parse_structured('{\n\t"a": 1\n\t"b": 2\n}')  # YAML would complain about the tabs
    with pytest.raises(InvalidInputError, match=r"^line 1, column 10: the key 'a' appears twice"):
        parse_structured('{"a": 1, "a": 2}')


def test_the_name_of_the_file_says_that_it_is_json(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("name: x")
    with pytest.raises(InvalidInputError, match=r"run\.json': line 1, column 1: not valid JSON \(expected a value\)"):
        load_run(tmp_path / "run.json")


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
# PyYAML writes these three into quoted strings as they are, and YAML reads them as ends of lines.
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), min_size=1, max_size=30
)
counts = st.integers(1, 100)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    weight = st.integers(1, 100).map(float) | st.floats(1, 100)
    datasets = [{"path": draw(texts | names), "weight": draw(weight)} for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        datasets[0]["revision"] = draw(names | texts)
    phases = [
        {"bag_size": draw(counts), "steps": draw(counts), "superpose": draw(st.sampled_from(["both", "input"]))}
        for _ in range(draw(st.integers(1, 3)))
    ]
    return {
        "name": draw(names),
        "datasets": datasets,
        "sequence_length": draw(counts),
        "batch_size": draw(counts),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "shuffle_group": draw(counts | st.just("all")),
        "phases": phases,
    }


RUN = {"sequence_length": 1, "batch_size": 1, "phases": [{"bag_size": 1, "steps": 1}], "datasets": [{"path": "a"}]}


@settings(max_examples=50, deadline=None)
@given(run=runs())
@example(run=RUN | {"name": "1e3"})
@example(run=RUN | {"name": "08"})
@example(run=RUN | {"name": "0o17"})
@example(run=RUN | {"name": "null"})
@example(run=RUN | {"name": "no"})
@example(run=RUN | {"name": "a", "datasets": [{"path": "<<"}]})
def test_the_canonical_form_is_a_run_file_in_yaml_and_in_json(run: dict[str, Any]) -> None:
    specification = RunSpecification.model_validate(run)
    canonical = specification.canonical()
    refusals: list[str] = []
    for text in (json.dumps(canonical), json.dumps(canonical, indent="\t", ensure_ascii=False)):
        assert parse_run(text, Path()).specification.canonical() == canonical
    for unicode in (False, True):
        text = yaml.safe_dump(canonical, allow_unicode=unicode, default_flow_style=not unicode)
        try:
            found = parse_run(text, Path()).specification
        except InvalidInputError as error:
            # PyYAML writes by YAML 1.1, where 1e3, 08 and 0o17 are strings that need no quotes: never another value.
            refusals.append(str(error))
        else:
            assert found.canonical() == canonical
    assert all("quotes" in refusal for refusal in refusals)
