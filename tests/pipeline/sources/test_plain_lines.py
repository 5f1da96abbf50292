"""The fast way to read lines gives exactly what the careful way gives."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.cambrian import parse_line
from pipeline.sources.lines import split_lines
from pipeline.sources.plain_lines import read_plain
from pipeline.sources.records import Entry
from tests.pipeline.sources.fixtures_rows import rows_to_entries

text = st.text(max_size=12) | st.sampled_from(
    [
        "<image>\nWhat?",
        "Say.\n<image>",
        "<image>",
        "<im<image>age>",
        "  ",
        "\x7f",
        "caf\xe9",
        "\U0001f600",
        '"',
        '"image"',
        "\\",
    ]
)
role = st.sampled_from(["human", "gpt", "human", "gpt", "user", "assistant", "system", ""])
turn = st.fixed_dictionaries({"from": role, "value": text}, optional={"x": text}) | st.fixed_dictionaries(
    {"role": role, "content": text}
)
image = st.sampled_from(
    [
        "a.jpg",
        "./coco/1.jpg",
        "coco/train/1.jpg",
        ".//x/y",
        "ab",
        "ab/c",
        "a/",
        "../x",
        "",
        "nan",
        "\xe9/1.jpg",
        None,
        3,
    ]
) | st.lists(st.just("a.jpg"), max_size=2)
chat = st.lists(st.tuples(text, text), min_size=1, max_size=3).map(
    lambda turns: [{"from": r, "value": v} for pair in turns for r, v in zip(("human", "gpt"), pair, strict=True)]
)
record = st.fixed_dictionaries(
    {"conversations": chat | st.lists(turn, max_size=4)},
    optional={
        "id": st.integers() | text | st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
        "image": image,
        "source": text | st.integers(),
        "video": text | st.none(),
        "image_size": st.lists(st.integers(), max_size=2),
    },
)


def careful(block: bytes) -> list[Entry]:
    lines = enumerate(split_lines(block), start=1)
    return [parse_line(line, number) for number, line in lines if line.strip()]


@settings(max_examples=400, deadline=None)
@given(st.lists(record, max_size=6), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_both_ways_give_the_same_entries(records: list[dict[str, Any]], ascii: bool, end: str) -> None:
    try:
        block = "".join(json.dumps(value, ensure_ascii=ascii) + end for value in records).encode()
    except UnicodeEncodeError:  # a lone surrogate, unescaped
        return
    rows = read_plain(block, 0, parse_line)
    assert rows_to_entries(rows) == careful(block)
    assert rows.last == len(split_lines(block))


TURNS = b'[{"from": "human", "value": "<image>\\nQ"}, {"from": "gpt", "value": "A"}]'
PLAIN = b'{"id": "1", "image": "a.jpg", "conversations": ' + TURNS + b"}"
BLOCKS = {
    "an object over two lines": PLAIN.replace(b'"image"', b'\n"image"') + b"\n" + PLAIN + PLAIN + b"\n",
    "two objects in a line, and a blank one": PLAIN + PLAIN + b"\n\n",
    "a blank line, and two objects in the last": b"\n" + PLAIN + PLAIN,
    "a token too many, and an image without one": PLAIN.replace(b'"A"', b'"<image>"')
    + b'\n{"image": "b.jpg", "conversations": []}\n',
    "a token too many, and a chat without one": PLAIN.replace(b'"A"', b'"A <image>"')
    + b"\n"
    + PLAIN.replace(b"<image>\\n", b""),
    "no line end": PLAIN + b"\n" + PLAIN,
    "a key twice": PLAIN + b"\n" + PLAIN[:-1] + b', "image": ""}\n',
    "a key twice, and once not": b'{"id": 1, "conversations": []}\n' + PLAIN[:-1] + b', "image": "b.jpg"}\n',
    "ignored keys twice": PLAIN[:-1] + b', "x": {"from": 1, "from": 2, "y": 1, "y": 2}, "x": 1}\n' + PLAIN + b"\n",
    "a key of a turn twice": PLAIN.replace(b'"value": "A"', b'"value": "A", "value": "B"') + b"\n",
    "a key twice, escaped": PLAIN[:-1] + b', "im\\u0061ge": "b.jpg"}\n',
    "an escaped image token": PLAIN.replace(b'"A"', b'"\\u003cimage\\u003e A"') + b"\n",
    "a line of another file": PLAIN + b"\n{\n" + PLAIN + b"\n",
    "nested keys": PLAIN[:-1] + b', "meta": {"image": 1, "from": 2}}\n' + PLAIN + b"\n",
    "not UTF-8": PLAIN + b"\n" + PLAIN.replace(b"A", b"\xff") + b"\n",
    "a number too large": PLAIN[:-1] + b', "n": 1e999}\n' + PLAIN + b"\n",
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks_in_which_a_decoder_of_whole_blocks_would_err(block: bytes) -> None:
    assert rows_to_entries(read_plain(block, 0, parse_line)) == careful(block)


ODD = [PLAIN, *(b for block in BLOCKS.values() for b in block.split(b"\n")), b'{"x": "\\q"}', b'{"x": 01}']


@given(st.lists(st.sampled_from(ODD), max_size=6))
def test_the_outcome_of_a_line_does_not_depend_on_its_block(lines: list[bytes]) -> None:
    alone = [
        entry for n, line in enumerate(lines) for entry in rows_to_entries(read_plain(line + b"\n", n, parse_line))
    ]
    assert rows_to_entries(read_plain(b"".join(line + b"\n" for line in lines), 0, parse_line)) == alone


def test_plain_records_are_not_read_twice() -> None:
    def never(line: bytes, number: int) -> Entry:
        raise AssertionError(line)

    assert read_plain((PLAIN + b"\n") * 50, 0, never).entries == 50
    assert read_plain(PLAIN.replace(b"<image>\\nQ", b"Q\\n<image>") + b"\n", 0, never).changes == [
        (0, "image_token_moved")
    ]
