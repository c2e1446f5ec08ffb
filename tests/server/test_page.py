"""The page, in a real browser where there is one. python -m pytest tests/server/test_page.py"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.page.page import content_security_policy
from tests.support.serving import Server, running
from tst_data.cli import app

pytestmark = pytest.mark.slow

MARKUP = "<img src=x onerror='document.title=\"hacked\"'><script>document.title = 'hacked'</script> & plain text. "
PROSE = "A bag holds several tokens that are read at one position, and the next bag is what that position predicts. "


def test_the_policy_allows_what_the_page_holds_and_nothing_else() -> None:
    policy = content_security_policy("<style>a</style><script>b</script>")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    write_text_dataset(folder / "text", [MARKUP + PROSE * 3] * 40)
    (folder / "text.yaml").write_text(
        "name: text\ndatasets: [{path: text}]\nsequence_length: 32\nbatch_size: 8\n"
        "phases: [{bag_size: 4, steps: 4}, {bag_size: 1, steps: 8}]\n"
    )
    with running(folder / "text.yaml") as server:
        yield server


def write_text_dataset(folder: Path, texts: list[str]) -> None:
    """A dataset of UTF-8 bytes that can be shown as text."""
    source = folder.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = CliRunner().invoke(app, ["convert", str(source), "--tokenizer", "bytes", "--out", str(folder)])
    assert result.exit_code == 0, result.output


def test_preview_is_text_with_its_documents(server: Server) -> None:
    preview = server.ask("/v1/runs/text/batches/0/preview?sequence=3").json
    documents = server.ask("/v1/runs/text/batches/0/documents?sequence=3").json["documents"]
    assert preview["documents"] == documents
    assert [bag["position"] for bag in preview["bags"]] == list(range(32))
    text = "".join(bag["inputs"] for bag in preview["bags"])
    assert text[:20] in (MARKUP + PROSE * 3) * 2 or "<|" in text
    assert "".join(preview["bags"][0]["targets"]) == preview["bags"][1]["inputs"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("no chromium on this machine")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def opened(browser: Any, url: str) -> Any:
    """The page in a browser, when it has shown the runs. `problems` holds what went wrong in it."""
    page = browser.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.goto(url)
    page.wait_for_selector("#look:not([hidden])")
    return page


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    page = opened(browser, server.url)
    yield page
    page.close()


def test_shows_runs_phases_and_what_was_served(page: Any, server: Server) -> None:
    server.ask("/v1/runs/text/batches/5")
    text = page.inner_text("section.run")
    assert server.ready["runs"][0]["fingerprint"] in text
    assert page.locator("section.run tbody tr").count() == 2
    page.locator("[data-figure=step]", has_text="5 of 12").wait_for()
    page.locator("tr.now[data-index='1']").wait_for()
    assert page.problems == []


def test_shows_bags_as_text_and_never_as_markup(page: Any) -> None:
    page.fill("#step", "1")
    page.fill("#sequence", "2")
    page.click("button[type=submit]")
    page.wait_for_selector(".bags")
    assert page.locator(".bags .place").count() == 32
    assert page.locator(".bags img, .bags script").count() == 0
    assert page.locator("#preview table tbody tr").count() >= 1
    assert page.title() == "Batch server"
    assert page.problems == []


@pytest.mark.parametrize("width", [1280, 390])
def test_is_as_wide_as_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.click("button[type=submit]")
    page.wait_for_selector(".bags")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_shows_what_is_wrong_with_a_step(page: Any) -> None:
    page.fill("#step", "99")
    page.click("button[type=submit]")
    page.wait_for_selector("#message.bad")
    assert "has no step 99" in page.inner_text("#message")


HOSTILE = "a\x1b[31m\x9b\u202eb\u2066<b>c\x7f\ud7ff\tnext\nlast"
SHOWN = "a\\x1b[31m\\u009b\\u202eb\\u2066<b>c\\x7f\ud7ff\\tnext\\nlast"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def test_shows_control_characters_as_escapes(browser: Any, tmp_path: Path) -> None:
    dataset = tmp_path / HOSTILE
    write_text_dataset(dataset, [HOSTILE * 3] * 40)
    (tmp_path / "run.json").write_text(
        json.dumps(
            {
                "name": "hostile",
                "datasets": [{"path": HOSTILE}],
                "sequence_length": 16,
                "batch_size": 8,
                "phases": [{"bag_size": len(HOSTILE.encode()), "steps": 2}],
            }
        )
    )
    with running(tmp_path / "run.json") as server:
        page = opened(browser, server.url)
        page.click("button[type=submit]")
        page.wait_for_selector(".bags")
        text = page.inner_text("body")
        assert page.evaluate("visible('\\ud800')") == "\\ud800"
        assert page.problems == []
        page.close()
    assert not UNSAFE.search(text)
    assert SHOWN in page_figure(text, "datasets")
    assert f"{tmp_path}/{SHOWN}.jsonl" in text
    bags = text[text.index("predicts") :]
    assert "\\x1b[31m" in bags
    assert "\\u202e" in bags


def page_figure(text: str, name: str) -> str:
    """The line below the name of a figure."""
    return text[text.index(f"\n{name}\n") :].split("\n")[2]
