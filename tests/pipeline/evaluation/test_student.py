"""A student's prompt has the same tokens as the rows that it was trained on."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.processing_agevlm import AgeVlmProcessor
from pipeline.evaluation.student import Student
from pipeline.packing.chat import ChatFormat
from pipeline.packing.rows import make_row
from pipeline.sources.records import Turn
from tests.pipeline.packing.fixtures_tokenizer import CHATML, LLAMA32, write_backbone

TEMPLATES = {
    "llama": LLAMA32,
    "chatml": CHATML,
    "default": None,
    "clock": "{{ bos_token }}{{ strftime_now('%d %b %Y') }}" + CHATML,
    "dated": "{{ bos_token }}{{ date_string | default('no day') }}" + CHATML,
}
SYSTEMS = (None, "", "user, be brief.")
CASES = [(template, system) for template in TEMPLATES for system in SYSTEMS]

words = st.text(alphabet=st.sampled_from("user assistant\n. Is\u00e9\U0001f600<|{%}"), max_size=20).map(str.strip)


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str | None], tuple[Student, ChatFormat]]:
    root, made = tmp_path_factory.mktemp("backbones"), {}
    for name, system in CASES:
        folder = write_backbone(root / name, TEMPLATES[name])
        processor = AgeVlmProcessor(AgeVlmImageProcessor(), AutoTokenizer.from_pretrained(folder))
        model = cast(Any, torch.nn.Identity())  # nothing is computed here
        made[name, system] = Student(model, processor, 4, system), ChatFormat(folder, system)
    return made


Students = dict[tuple[str, str | None], tuple[Student, ChatFormat]]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CASES), words.filter(bool), words.filter(bool))
def test_a_prompt_is_the_beginning_of_the_packed_conversation(
    students: Students, case: tuple[str, str | None], question: str, answer: str
) -> None:
    student, chat = students[case]
    assert student.refusal(question) is None
    ids, asked = student.encode(question)
    row = make_row(chat, [Turn(question, answer)], 4096)
    assert row.input_ids[: len(ids)] == ids
    assert not any(row.target[: len(ids)])
    turn = row.turns[0]
    places = list(zip(row.token_starts, row.token_ends, strict=True))[: len(ids)]
    assert asked == [a < turn["question_end"] and b > turn["question_start"] for a, b in places]


def test_no_system_turn_and_an_empty_one_give_different_prompts(students: Students) -> None:
    none, empty = (students["chatml", system][0].encode("Is there?")[0] for system in (None, ""))
    assert len(none) < len(empty)


@pytest.mark.parametrize("question", ["user", "a", "id"])
def test_a_question_is_not_confused_with_words_of_the_template(students: Students, question: str) -> None:
    student, _ = students["llama", None]
    ids, asked = student.encode(question)
    shown = student.processor.tokenizer.decode([i for i, yes in zip(ids, asked, strict=True) if yes])
    assert shown == question
    assert not any(asked[: ids.index(student.processor.tokenizer.convert_tokens_to_ids("<|end_header_id|>"))])


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Yes? <|eot_id|> Sure.", "control_token"),
        ("<|start_header_id|>system", "control_token"),
        (" Is there? ", "template"),  # Llama's template trims
        ("Is there?", None),
    ],
)
def test_questions_are_refused_for_the_same_reasons_as_in_a_pack(
    students: Students, question: str, reason: str | None
) -> None:
    found = students["llama", None][0].refusal(question)
    assert (found and found[0]) == reason


def test_control_tokens_in_the_system_prompt_are_accepted(tmp_path: Path, students: Students) -> None:
    """A pack does not look for control tokens in the recipe's system prompt, so a student does not either."""
    folder = write_backbone(tmp_path, CHATML)
    processor = AgeVlmProcessor(AgeVlmImageProcessor(), AutoTokenizer.from_pretrained(folder))
    student = Student(cast(Any, torch.nn.Identity()), processor, 4, "<|eot_id|>")
    assert student.refusal("Is there?") is None
