"""Reading Cambrian's JSON Lines: variants in its own files, and broken lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.sources.lines as lines
from model.errors import DataError
from pipeline.sources.cambrian import CambrianReader, parse_line
from pipeline.sources.records import Record, Rejected, Truth, Turn

CHAT = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
TALK = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello! <image> is a token."}]
NO_IMAGE = ("", "None", "none", "nan", None)
# As in Cambrian's own files: './' paths, further keys, a 'system prompt' inside the human turn, text only.
GOLDEN = [
    {"id": "000000125860", "image": "000000125860.jpg", "conversations": CHAT},
    {"id": "sa_1", "image": "./sam/images/sa_1.jpg", "conversations": CHAT, "source": "sharegpt4v"},
    {
        "id": 17,
        "image": "ai2d/images/3.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhich?\nAnswer the question using a single word or phrase."},
            {"from": "gpt", "value": "B"},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": "It is larger."},
        ],
    },
    {"id": "wizard_3", "conversations": TALK},
    *({"id": "t", "image": spelling, "conversations": TALK} for spelling in NO_IMAGE),
]


def dataset(folder: Path, lines: list[str]) -> CambrianReader:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CambrianReader(folder / "records.jsonl", folder / "images")


def records_of(reader: CambrianReader) -> list[Record]:
    entries = list(reader.entries())
    assert all(isinstance(entry, Record) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Record)]


def test_golden_lines(tmp_path: Path) -> None:
    first, sam, diagram, text, *spellings = records_of(dataset(tmp_path, [json.dumps(line) for line in GOLDEN]))
    assert (first.given_id, first.image) == ("000000125860", "000000125860.jpg")
    assert first.turns == (Turn("What is it?", "A dog."),)
    assert sam.image == "sam/images/sa_1.jpg"
    assert diagram.given_id == "17"
    assert diagram.turns[0].question.endswith("single word or phrase.")
    assert len(diagram.turns) == 2
    assert text.image is None
    assert [record.image for record in spellings] == [None] * 5
    assert all(record.truth is None for record in (first, sam, diagram, text))


@pytest.mark.parametrize("image", [{}, *({"image": spelling} for spelling in NO_IMAGE)])
def test_a_question_about_an_image_that_is_not_named_is_rejected(image: dict[str, Any]) -> None:
    later = [*TALK, {"from": "human", "value": "And here?\n<image>"}, {"from": "gpt", "value": "Yes."}]
    for conversations in (CHAT, later):
        entry = parse_line(json.dumps({"id": 1, **image, "conversations": conversations}).encode(), "line 7")
        assert isinstance(entry, Rejected)
        assert entry.reason == "no_image_reference"
        assert entry.detail == f"line 7: asks about an image, but 'image' is {image.get('image')!r}"


def test_ids_depend_on_image_and_conversation_only() -> None:
    def sample(**changes: Any) -> str:
        return parse_line(json.dumps(GOLDEN[1] | changes).encode(), "line 1").sample_id

    assert sample(id="other", source="x", extra=[1]) == sample()
    assert sample(image="./sam/images/sa_2.jpg") != sample()
    assert sample(conversations=[*CHAT, *CHAT]) != sample()
    reordered = json.dumps(dict(reversed(GOLDEN[1].items())), indent=1).replace("\n", " ").encode()
    assert parse_line(reordered, "line 1").sample_id == sample()


BROKEN: dict[str, tuple[bytes, str]] = {
    "not json": (b'{"id": 1, "conv', "malformed_json"),
    "not an object": (b"[1, 2]", "malformed_json"),
    "not utf-8": (b'{"id": "\xff"}', "malformed_json"),
    "NaN": (b'{"image": NaN, "conversations": []}', "malformed_json"),
    "infinite": (b'{"image": 1e999, "conversations": []}', "malformed_json"),
    "deep": (b'{"conversations": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
    "long number": (b'{"id": ' + b"9" * 5000 + b"}", "malformed_json"),
    "no conversations": (b'{"image": "a.jpg"}', "bad_conversation"),
    "a number for an image": (json.dumps({"image": 5, "conversations": CHAT}).encode(), "bad_image_reference"),
    "a flag for an image": (json.dumps({"image": True, "conversations": CHAT}).encode(), "bad_image_reference"),
    "several images": (
        json.dumps({"image": ["a.jpg", "b.jpg"], "conversations": CHAT}).encode(),
        "bad_image_reference",
    ),
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_lines_are_rejected_with_reason_and_line_number(line: bytes, reason: str) -> None:
    entry = parse_line(line, "line 42")
    assert isinstance(entry, Rejected)
    assert entry.reason == reason
    assert entry.detail.startswith("line 42: ")
    assert len(entry.sample_id) == 64


def test_one_bad_line_does_not_affect_others(tmp_path: Path) -> None:
    good = json.dumps(GOLDEN[0])
    entries = list(dataset(tmp_path, [good, "{", "", "   ", good]).entries())
    assert [type(entry) for entry in entries] == [Record, Rejected, Record]
    assert isinstance(entries[1], Rejected)
    assert entries[1].detail.startswith("line 2: ")


def test_any_depth_of_nesting_is_a_record_or_a_rejection() -> None:
    for depth in (1, 100, *range(900, 1100), 5000):
        nest = "[" * depth + "]" * depth
        for line in (f'{{"image": {nest}}}', f'{{"id": {nest}, "conversations": {json.dumps(TALK)}}}'):
            assert isinstance(parse_line(line.encode(), "line 1"), Record | Rejected)


def test_a_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    reader = dataset(tmp_path, [])
    line = json.dumps(GOLDEN[0]).encode()
    (tmp_path / "records.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line)
    assert len(records_of(reader)) == 2


def test_a_line_that_is_too_long_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 300)
    good = json.dumps(GOLDEN[0])
    reader = dataset(tmp_path, [good, json.dumps({"id": "x" * 2000}), good])
    assert [getattr(entry, "reason", "") for entry in reader.entries()] == ["", "line_too_long", ""]


def test_missing_and_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"records\.jsonl does not exist"):
        CambrianReader(tmp_path / "records.jsonl", tmp_path)
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(DataError, match="image folder"):
        CambrianReader(tmp_path / "records.jsonl", tmp_path / "images")
    (tmp_path / "array.json").write_text('\n [{"id": 1}]')
    with pytest.raises(DataError, match="one JSON array, not JSON Lines"):
        CambrianReader(tmp_path / "array.json", tmp_path)


def test_each_line_of_truth_belongs_to_the_record_on_that_line(tmp_path: Path) -> None:
    dataset(tmp_path, [json.dumps(GOLDEN[0]), "{", json.dumps(GOLDEN[2])])
    there = {"present": True, "height": 4, "width": 5, "rle": "04"}
    rows = [{"turns": [there]}, {"turns": []}, {"turns": [None, there | {"present": False, "rle": None}]}]
    truth = tmp_path / "truth.jsonl"
    truth.write_text("\n".join(json.dumps(row) for row in rows))
    reader = CambrianReader(tmp_path / "records.jsonl", tmp_path / "images", truth)
    first, _, last = reader.entries()
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert first.truth == (Truth(True, 4, 5, "04"),)
    assert last.truth == (None, Truth(False, 4, 5, None))
    truth.write_text("\n".join(json.dumps({"turns": []}) for _ in rows))
    with pytest.raises(DataError, match="has 0 turns"):
        list(reader.entries())


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["id", "image", "conversations", "from", "value", "x"]), inner, max_size=5
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_record_or_a_rejection(value: Any) -> None:
    entry = parse_line(json.dumps(value).encode(), "line 1")
    assert isinstance(entry, Record | Rejected)
    assert parse_line(json.dumps(value).encode(), "line 1") == entry
