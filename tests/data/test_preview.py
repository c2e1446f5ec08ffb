"""What bags say, and which documents they come from. python -m pytest tests/data/test_preview.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeRun
from tst_data import Plan, load_run
from tst_data.dataset.manifest import TokenizerDescription
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import DatasetWriter
from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.inspection.preview import preview_sequence, sequence_documents
from tst_data.tokenizer.loading import load_tokenizer

TEXTS = [f"Document {number}: {'lorem ipsum ' * (number % 7)}" for number in range(120)]
END = "<|endoftext|>"
STREAM = [character for text in TEXTS for character in (*text, END)]


@pytest.fixture(scope="module")
def text_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts as UTF-8 bytes, so that every token is one character."""
    folder = tmp_path_factory.mktemp("text") / "dataset"
    tokenizer = load_tokenizer("bytes", None)
    with DatasetWriter(
        folder,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text_id=tokenizer.end_of_text_id,
        sample_tokens=64,
        shard_tokens=1024,
    ) as writer:
        for row, ids in enumerate(tokenizer.encode_batch(TEXTS)):
            closed = [*ids.tolist(), tokenizer.end_of_text_id]
            writer.append(closed, id=f"doc-{row}", source="texts.jsonl", row=row)
        tokenizer.save(folder)
        description = TokenizerDescription(name=tokenizer.name, kind=tokenizer.kind, hash=tokenizer.hash)
        writer.finish(tokenizer=description, files=tokenizer.files())
    return folder


@pytest.mark.parametrize("superpose", ["both", "input", "output"])
def test_every_bag_names_its_documents_and_their_text(make_run: MakeRun, text_dataset: Path, superpose: str) -> None:
    run = make_run(text_dataset, phases=[{"bag_size": 3, "steps": 6, "superpose": superpose}])
    with Plan(load_run(run)) as plan:
        slots = plan.phase(0).geometry.input_slots
        for step in range(plan.num_steps):
            for sequence in range(4):
                shown = preview_sequence(plan, step, sequence)
                first = shown.first_token
                assert len(shown.bags) == 16
                for k, bag in enumerate(shown.bags):
                    assert bag.inputs == "".join(STREAM[first + k * slots : first + (k + 1) * slots])
                    after = first + (k + 1) * slots
                    whole = STREAM[after : after + (1 if superpose == "input" else 3)]
                    assert bag.targets == (whole[:1] if superpose == "both" and k == 15 else whole)
                assert shown.documents == sequence_documents(plan, step, sequence)
                for document in shown.documents:
                    assert (document.id, document.source) == (f"doc-{document.row}", "texts.jsonl")
                    end = document.first_token + document.length
                    assert STREAM[document.first_token : end] == [*TEXTS[document.row], END]
                    offset = document.first_token - first
                    assert document.bags == [
                        k for k in range(16) if k * slots < end - first and (k + 1) * slots > offset
                    ]
                assert {k for document in shown.documents for k in document.bags} == set(range(16))


@pytest.mark.parametrize("superpose", ["both", "input", "output"])
def test_only_as_many_bags_as_asked_for(make_run: MakeRun, text_dataset: Path, superpose: str) -> None:
    run = make_run(text_dataset, phases=[{"bag_size": 3, "steps": 1, "superpose": superpose}])
    with Plan(load_run(run)) as plan:
        whole = preview_sequence(plan, 0, 0)
        for number in (1, 3, 15, 16, 99):
            shown = preview_sequence(plan, 0, 0, max_bags=number)
            assert shown.bags == whole.bags[:number]
            assert shown.documents == whole.documents
            assert shown.num_bags == 16


def test_what_is_shown_is_bounded(make_run: MakeRun, text_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "tst_data.inspection.preview"
    with Plan(load_run(make_run(text_dataset, phases=[{"bag_size": 4, "steps": 1}]))) as plan:
        whole = preview_sequence(plan, 0, 0)
        monkeypatch.setattr(f"{module}.MAX_SHOWN_TOKENS", 15)
        assert preview_sequence(plan, 0, 0).bags == whole.bags[:3]
        assert preview_sequence(plan, 0, 0).documents == whole.documents
        monkeypatch.setattr(f"{module}.MAX_SHOWN_TOKENS", 3)
        with pytest.raises(InvalidInputError, match=r"^run 'test': step 0 has bags of 4 tokens, .* read the batch"):
            preview_sequence(plan, 0, 0)
        monkeypatch.setattr(f"{module}.MAX_SEQUENCE_TOKENS", 63)
        with pytest.raises(InvalidInputError, match=r"^run 'test': step 0 has sequences of 64 tokens, .* read"):
            sequence_documents(plan, 0, 0)


@pytest.mark.parametrize(("step", "sequence"), [(0, 4), (0, -1), (5, 0), (-1, 0)])
def test_what_does_not_exist_is_not_found(make_run: MakeRun, text_dataset: Path, step: int, sequence: int) -> None:
    with Plan(load_run(make_run(text_dataset))) as plan, pytest.raises(NotFoundError):
        preview_sequence(plan, step, sequence)


def test_ids_without_a_tokenizer_have_documents_but_no_text(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    with Plan(load_run(make_run(tiny_dataset))) as plan:
        assert sequence_documents(plan, 0, 0)
        with pytest.raises(NotFoundError, match="holds no tokenizer"):
            preview_sequence(plan, 0, 0)
