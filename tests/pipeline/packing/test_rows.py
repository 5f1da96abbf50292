"""Turning conversations into tokens and targets."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.packing.chat import ChatFormat
from pipeline.packing.formats import PlainFormat, open_format
from pipeline.packing.rows import RowError, make_row
from pipeline.sources.records import Turn
from tests.pipeline.packing.fixtures_tokenizer import write_backbone

ENOUGH = 4096
TALK = [Turn("Is there a red circle?", "Yes."), Turn("Is there a the?", "No \u00e9\U0001f600."), Turn("", "the image")]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat(write_backbone(tmp_path_factory.mktemp("backbone")))


def targets_of(chat: ChatFormat, turns: list[Turn], max_tokens: int = ENOUGH) -> str:
    row = make_row(chat, turns, max_tokens)
    wanted = [token for token, is_target in zip(row.input_ids, row.target, strict=True) if is_target]
    return chat.tokenizer.decode(wanted, skip_special_tokens=False)


def test_targets_are_the_answers_with_their_end_of_turn(chat: ChatFormat) -> None:
    assert targets_of(chat, TALK) == "Yes.<|eot_id|>No \u00e9\U0001f600.<|eot_id|>the image<|eot_id|>"


def test_offsets_and_spans_agree_with_the_tokens(chat: ChatFormat) -> None:
    row, text = make_row(chat, TALK, ENOUGH), chat.render(TALK).text
    assert chat.tokenizer.decode(row.input_ids, skip_special_tokens=False) == text
    assert len(row.input_ids) == len(row.target) == len(row.token_starts) == len(row.token_ends)
    for span, turn in zip(row.turns, TALK, strict=True):
        for words, start, end in (
            (turn.question, span["question_start"], span["question_end"]),
            (turn.answer, span["answer_start"], span["answer_end"]),
        ):
            inside = [
                token
                for token, a, b in zip(row.input_ids, row.token_starts, row.token_ends, strict=True)
                if a < end and b > start
            ]
            assert chat.tokenizer.decode(inside) == words
    assert [span["turn"] for span in row.turns] == [0, 1, 2]


def test_last_turns_that_do_not_fit_are_dropped_and_counted(chat: ChatFormat) -> None:
    sizes = [len(make_row(chat, TALK[:n], ENOUGH).input_ids) for n in (1, 2, 3)]
    for limit in range(sizes[0], sizes[2] + 1):
        row = make_row(chat, TALK, limit)
        kept = sum(size <= limit for size in sizes)
        assert len(row.turns) == kept
        assert row.dropped == 3 - kept
        assert row.input_ids == make_row(chat, TALK[:kept], ENOUGH).input_ids
    with pytest.raises(RowError, match=f"takes {sizes[0]} tokens, more than {sizes[0] - 1}") as caught:
        make_row(chat, TALK, sizes[0] - 1)
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize("turn", [Turn("a<|eot_id|>b", "c"), Turn("a", "<|start_header_id|>user")])
def test_text_cannot_forge_turns(chat: ChatFormat, turn: Turn) -> None:
    with pytest.raises(RowError, match="control token") as caught:
        make_row(chat, [Turn("Q", "A"), turn], ENOUGH)
    assert caught.value.reason == "control_token"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(Turn, st.text(max_size=30).map(str.strip), st.text(min_size=1, max_size=30).map(str.strip)),
        min_size=1,
        max_size=3,
    )
)
def test_the_targets_of_any_text_decode_to_its_answers(chat: ChatFormat, turns: list[Turn]) -> None:
    usable = [turn for turn in turns if turn.answer]
    if usable:
        assert targets_of(chat, usable) == "".join(f"{turn.answer}<|eot_id|>" for turn in usable)


def test_a_backbones_folder_is_read_once(tmp_path: Path) -> None:
    folder = str(write_backbone(tmp_path))
    assert open_format(folder) is open_format(folder)
    assert open_format(folder, "chat", "You see.") is not open_format(folder)
    assert isinstance(open_format(folder, "plain"), PlainFormat)
