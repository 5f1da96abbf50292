"""Reading Cambrian's JSON Lines: variants in its own files, and broken lines."""

import gzip
import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.sources.lines as lines
from model.errors import DataError
from pipeline.sources.cambrian import CambrianReader, parse_line
from pipeline.sources.interface import Split
from pipeline.sources.records import Record, Rejected, Truth, Turn
from tests.pipeline.sources.fixtures_rows import entries_of, rows_to_entries
from tests.pipeline.steps.fixtures_single_step import chat

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
    return CambrianReader(str(folder / "records.jsonl"))


def records_of(reader: CambrianReader) -> list[Record]:
    entries = entries_of(reader)
    assert all(isinstance(entry, Record) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Record)]


def test_golden_lines(tmp_path: Path) -> None:
    first, sam, diagram, text, *spellings = records_of(dataset(tmp_path, [json.dumps(line) for line in GOLDEN]))
    assert (first.given_id, first.image) == ("000000125860", "000000125860.jpg")
    assert first.turns == (Turn("What is it?", "A dog."),)
    assert (sam.image, sam.source) == ("./sam/images/sa_1.jpg", "sharegpt4v")
    assert (diagram.source, first.source, text.source) == ("ai2d", "", "")
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
        entry = parse_line(json.dumps({"id": 1, **image, "conversations": conversations}).encode(), 7)
        assert isinstance(entry, Rejected)
        assert (entry.reason, entry.number) == ("no_image_reference", 7)
        assert entry.detail == f"asks about an image, but 'image' is {image.get('image')!r}"


def test_ids_depend_on_image_and_conversation_only() -> None:
    def sample(**changes: Any) -> str:
        return parse_line(json.dumps(GOLDEN[1] | changes).encode(), 1).sample_id

    assert sample(id="other", source="x", extra=[1]) == sample()
    assert sample(image="./sam/images/sa_2.jpg") != sample()
    assert sample(conversations=[*CHAT, *CHAT]) != sample()
    reordered = json.dumps(dict(reversed(GOLDEN[1].items())), indent=1).replace("\n", " ").encode()
    assert parse_line(reordered, 1).sample_id == sample()


BROKEN: dict[str, tuple[bytes, str]] = {
    "not json": (b'{"id": 1, "conv', "malformed_json"),
    "not an object": (b"[1, 2]", "malformed_json"),
    "not utf-8": (b'{"id": "\xff"}', "malformed_json"),
    "NaN in a turn": (b'{"conversations": [{"from": "human", "value": NaN}]}', "malformed_json"),
    "key twice": (b'{"image": "a.jpg", "image": "b.jpg", "conversations": []}', "duplicate_keys"),
    "key twice, once escaped": (b'{"image": "a.jpg", "im\\u0061ge": "b.jpg", "conversations": []}', "duplicate_keys"),
    "key of a turn twice": (b'{"conversations": [{"from": "human", "value": "a", "value": "b"}]}', "duplicate_keys"),
    "video": (json.dumps({"video": "a.mp4", "conversations": TALK}).encode(), "video"),
    "video and image": (json.dumps({"video": "a.mp4", "image": "a.jpg", "conversations": CHAT}).encode(), "video"),
    "infinite": (b'{"image": 1e999, "conversations": []}', "malformed_json"),
    "deep": (b'{"conversations": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
    "long number": (b'{"image": ' + b"9" * 5000 + b"}", "malformed_json"),
    "no conversations": (b'{"image": "a.jpg"}', "bad_conversation"),
    "a number for an image": (json.dumps({"image": 5, "conversations": CHAT}).encode(), "bad_image_reference"),
    "a flag for an image": (json.dumps({"image": True, "conversations": CHAT}).encode(), "bad_image_reference"),
    "several images": (json.dumps({"image": ["a.jpg", "b.jpg"], "conversations": CHAT}).encode(), "multi_image"),
    "a list of no path": (json.dumps({"image": [["a.jpg"]], "conversations": CHAT}).encode(), "bad_image_reference"),
    "roles in the wrong order": (json.dumps({"conversations": TALK[::-1] * 2}).encode(), "bad_roles"),
    "a silent answer": (json.dumps({"conversations": [TALK[0], {"from": "gpt", "value": " "}]}).encode(), "empty_text"),
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_lines_are_rejected_with_reason_and_line_number(line: bytes, reason: str) -> None:
    entry = parse_line(line, 42)
    assert isinstance(entry, Rejected)
    assert (entry.reason, entry.number) == (reason, 42)
    assert len(entry.sample_id) == 64


def test_one_bad_line_does_not_affect_others(tmp_path: Path) -> None:
    good = json.dumps(GOLDEN[0])
    entries = entries_of(dataset(tmp_path, [good, "{", "", "   ", good]))
    assert [type(entry) for entry in entries] == [Record, Rejected, Record]
    assert [entry.number for entry in entries] == [1, 2, 5]


def test_any_depth_of_nesting_is_a_record_or_a_rejection() -> None:
    for depth in (1, 100, *range(900, 1100), 5000):
        nest = "[" * depth + "]" * depth
        for line in (f'{{"image": {nest}}}', f'{{"id": {nest}, "conversations": {json.dumps(TALK)}}}'):
            assert isinstance(parse_line(line.encode(), 1), Record | Rejected)


def test_a_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    line = json.dumps(GOLDEN[0]).encode()
    (tmp_path / "records.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line)
    assert len(records_of(CambrianReader(str(tmp_path / "records.jsonl")))) == 2


def test_a_line_that_is_too_long_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 300)
    good = json.dumps(GOLDEN[0])
    reader = dataset(tmp_path, [good, json.dumps({"id": "x" * 2000}), good])
    assert [getattr(entry, "reason", "") for entry in entries_of(reader)] == ["", "line_too_long", ""]


def test_missing_and_wrong_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with pytest.raises(DataError, match=r"records\.jsonl does not exist"):
        CambrianReader(str(path))
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_bytes(json.dumps(GOLDEN[0]).encode(encoding))
        with pytest.raises(DataError, match="UTF-16 or UTF-32 text; write it as UTF-8"):
            CambrianReader(str(path))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 10000)[:-20])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz .* download it again"):
        entries_of(CambrianReader(str(tmp_path / "cut.jsonl.gz")))


@pytest.mark.parametrize("cut", [1, 4, 8, 30, 2000])
@pytest.mark.parametrize("array", [False, True])
def test_a_gzipped_file_that_is_cut_anywhere_is_an_error(tmp_path: Path, cut: int, array: bool) -> None:
    texts = [hashlib.sha256(bytes([n % 251, n // 251])).hexdigest() for n in range(300)]
    lines = [json.dumps({"conversations": chat((text, text))}) for text in texts]
    content = f"[{','.join(lines)}]" if array else "\n".join(lines)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(content.encode())[:-cut])
    with pytest.raises(DataError, match=r"a\.json\.gz .* download it again"):
        entries_of(CambrianReader(str(tmp_path / "a.json.gz")))


def test_a_gzipped_file_without_the_suffix_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match=r"a\.jsonl is gzipped; give it a name that ends with \.gz"):
        CambrianReader(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl.gz"])
def test_an_array_and_gzipped_files_give_the_same_records(tmp_path: Path, name: str) -> None:
    expected = records_of(dataset(tmp_path, [json.dumps(line) for line in GOLDEN]))
    array = ".json" in name.replace(".jsonl", "")
    text = json.dumps(GOLDEN, indent=1) if array else "\n".join(json.dumps(line) for line in GOLDEN)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    reader = CambrianReader(str(tmp_path / name))
    assert records_of(reader) == expected
    assert reader.unit == ("record" if array else "line")


def test_a_list_of_one_image_and_other_names_of_roles_are_read_and_counted() -> None:
    for conversations, changes in (
        ([{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A dog."}], ["role_alias"]),
        ([{"from": "system", "value": "Be nice."}, *CHAT], ["leading_turn_dropped"]),
        ([{"from": "human", "value": "What?\n<image>"}, CHAT[1]], ["image_token_moved"]),
        ([{"from": "human", "value": "<image><image>What?"}, CHAT[1]], ["image_token_removed"]),
        ([CHAT[0], {"from": "gpt", "value": "A <image> dog."}], ["image_token_removed"]),
        ([{"from": "human", "value": "What?"}, CHAT[1]], ["image_token_added"]),
        (CHAT, []),
    ):
        entry = parse_line(json.dumps({"image": "a.jpg", "conversations": conversations}).encode(), 1)
        assert isinstance(entry, Record), entry
        assert list(entry.changes) == changes
    listed = parse_line(json.dumps({"image": ["a.jpg"], "conversations": CHAT}).encode(), 1)
    assert isinstance(listed, Record)
    assert (listed.image, listed.changes) == ("a.jpg", ("image_list",))


def test_a_missing_value_of_a_data_frame_is_no_image() -> None:
    """Cambrian's own reader takes 'nan' for no image."""
    entry = parse_line(b'{"id": NaN, "image": NaN, "conversations": ' + json.dumps(TALK).encode() + b"}", 1)
    assert isinstance(entry, Record)
    assert (entry.image, entry.given_id) == (None, "")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_splits_at_any_byte_give_each_line_once(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from([json.dumps(GOLDEN[0]), json.dumps(GOLDEN[3]), "{", "", "\u00e9"])))
    end = data.draw(st.sampled_from(["", "\n", "\r\n", "\n\n"]))
    path = tmp_path_factory.mktemp("splits") / "a.jsonl"
    path.write_bytes((data.draw(st.sampled_from(["\n", "\r\n"])).join(lines) + end).encode())
    reader, size = CambrianReader(str(path)), path.stat().st_size
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=5))})
    found, before = [], 0
    for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
        last = 0
        for rows in reader.read(Split(number, start=start, end=stop)):
            found += [replace(entry, number=entry.number + before) for entry in rows_to_entries(rows)]
            last = rows.last
        before += last
    assert found == entries_of(reader)


def test_each_line_of_truth_belongs_to_the_record_on_that_line(tmp_path: Path) -> None:
    dataset(tmp_path, [json.dumps(GOLDEN[0]), "{", json.dumps(GOLDEN[2])])
    there = {"present": True, "height": 4, "width": 5, "rle": "04"}
    rows = [{"turns": [there]}, {"turns": []}, {"turns": [None, there | {"present": False, "rle": None}]}]
    truth = tmp_path / "truth.jsonl"
    truth.write_text("\n".join(json.dumps(row) for row in rows))
    reader = CambrianReader(str(tmp_path / "records.jsonl"), str(truth))
    first, _, last = entries_of(reader)
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert first.truth == (Truth(True, 4, 5, "04"),)
    assert last.truth == (None, Truth(False, 4, 5, None))
    truth.write_text("\n".join(json.dumps({"turns": []}) for _ in rows))
    with pytest.raises(DataError, match="has 0 turns"):
        entries_of(reader)


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
    entry = parse_line(json.dumps(value).encode(), 1)
    assert isinstance(entry, Record | Rejected)
    assert parse_line(json.dumps(value).encode(), 1) == entry
