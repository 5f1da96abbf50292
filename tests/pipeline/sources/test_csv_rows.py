"""Strict CSV: rows, rows over several lines, and lines that are rejected."""

import csv
import io
from itertools import count

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import pipeline.sources.csv_rows as csv_rows
from pipeline.sources.csv_rows import Row, Shape, read_rows

TWO = Shape(width=2, image=0)


def rows_of(text: bytes, shape: Shape = TWO) -> list[Row]:
    """The rows of a text without a header, with line numbers from 1."""
    return list(read_rows(zip(count(1), io.BytesIO(text), strict=False), shape))


def outcomes(text: str, shape: Shape = TWO) -> list[tuple[str, ...] | str]:
    """The fields of each row, or the reason for which it is rejected."""
    return [row.reason or row.fields for row in rows_of(text.encode("utf-8", "surrogateescape"), shape)]


def test_a_quote_that_is_left_open_costs_one_row() -> None:
    lines = [f"{n}.jpg,A cat" for n in range(1000)]
    lines[499] = '499.jpg,"A dog'
    found = outcomes("\n".join(lines))
    assert found[499] == "malformed_csv"
    assert [row for row in found if row != "malformed_csv"] == [(f"{n}.jpg", "A cat") for n in range(1000) if n != 499]


def test_an_unquoted_comma_is_rejected_with_its_line_and_the_remedy() -> None:
    good, bad = rows_of(b"0.jpg,A cat\n1.jpg,A dog, a cat\n")
    assert good.fields == ("0.jpg", "A cat")
    assert (bad.reason, bad.line) == ("malformed_csv", 2)
    assert bad.detail == ("line 2: 3 fields, the header has 2; a field that holds a comma needs quotes around it")


CASES: dict[str, tuple[str, list[tuple[str, ...] | str]]] = {
    "quote in the middle of a field": ('0.jpg,A 6" pipe\n', [("0.jpg", 'A 6" pipe')]),
    "quote opened in the middle of a row": ('0.jpg,"A dog" runs\n1.jpg,x\n', ["malformed_csv", ("1.jpg", "x")]),
    "quote opened before the image": ('"0.jpg,A dog\n1.jpg,x\n', ["malformed_csv", ("1.jpg", "x")]),
    "quote opened in the last row": ('0.jpg,x\n1.jpg,"A dog', [("0.jpg", "x"), "malformed_csv"]),
    "closed by a later row's lone quote": (
        '0.jpg,"A dog\n1.jpg,x\n2.jpg,6"\n',
        ["malformed_csv", ("1.jpg", "x"), ("2.jpg", '6"')],
    ),
    "closed by the next row's lone quote": ('0.jpg,"A dog\n1.jpg,6"\n', ["malformed_csv", ("1.jpg", '6"')]),
    "a comma inside a lost quote": ('0.jpg,"A dog, a cat\n1.jpg,6"\n', ["malformed_csv", ("1.jpg", '6"')]),
    "swallowed row with a comma too many": ('0.jpg,"A\n1.jpg,x, y\nz"\n', ["malformed_csv"] * 3),
    "swallowed rows without images": ('0.jpg,"A\n,x\nz"\n', ["malformed_csv", ("", "x"), "malformed_csv"]),
    "swallowed names without suffix": ('cat,"A\ndog,x\nz"\n', ["malformed_csv", ("dog", "x"), "malformed_csv"]),
    "all fields quoted": ('"0.jpg","A dog\n"1.jpg","A cat"\n', ["malformed_csv", ("1.jpg", "A cat")]),
    "caption of several lines": (
        '0.jpg,"A dog,\nsitting.\n\nHowever, a cat"\n1.jpg,x\n',
        [("0.jpg", "A dog,\nsitting.\n\nHowever, a cat"), ("1.jpg", "x")],
    ),
    "quoted quotes over lines": ('0.jpg,"He said\n""hello, you"""\n', [("0.jpg", 'He said\n"hello, you"')]),
    "CRLF": ('0.jpg,"A dog,\r\nsitting"\r\n1.jpg,x\r\n', [("0.jpg", "A dog,\r\nsitting"), ("1.jpg", "x")]),
    "CR in a field": ("0.jpg,A dog\rsits\n1.jpg,x\n", ["malformed_csv", ("1.jpg", "x")]),
    "doubled quotes": ('0.jpg,"A ""big"" dog"\n', [("0.jpg", 'A "big" dog')]),
    "quotes escaped by backslash": ('0.jpg,"A \\"big\\" dog"\n1.jpg,x\n', ["malformed_csv", ("1.jpg", "x")]),
    "NUL": ("0.jpg,A\0dog\n1.jpg,x\n", ["malformed_csv", ("1.jpg", "x")]),
    "NUL inside quotes": ('0.jpg,"A\nb\0"\n1.jpg,x\n', ["malformed_csv", "malformed_csv", ("1.jpg", "x")]),
    "missing field": ("0.jpg\n1.jpg,x\n", ["malformed_csv", ("1.jpg", "x")]),
    "blank lines": ("\n0.jpg,x\n \r\n1.jpg,y\n\n", [("0.jpg", "x"), ("1.jpg", "y")]),
    "bytes that are not UTF-8": ("0.jpg,\udcff\n", [("0.jpg", "\udcff")]),
    "no line": ("", []),
    "a field that is too long": (f"0.jpg,{'x' * 200_000}\n1.jpg,x\n", ["malformed_csv", ("1.jpg", "x")]),
    "a quoted field that is too long": (
        '0.jpg,"' + "x" * 200_000 + '\ny"\n1.jpg,x\n',
        ["malformed_csv", "malformed_csv", ("1.jpg", "x")],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_each_line_has_the_right_outcome(text: str, expected: list[tuple[str, ...] | str]) -> None:
    assert outcomes(text) == expected


IMAGE_LAST: dict[str, tuple[str, list[tuple[str, ...] | str]]] = {
    "caption of several lines": ('"A dog\nsits",0.jpg\nx,1.jpg\n', [("A dog\nsits", "0.jpg"), ("x", "1.jpg")]),
    "quote left open": ('"A dog,0.jpg\nx,1.jpg\n', ["malformed_csv", ("x", "1.jpg")]),
    "closed by a later row": ('"A dog,0.jpg\nx 6",1.jpg\n', ["malformed_csv", ('x 6"', "1.jpg")]),
    "closed by a later row, with a comma": ('"A dog, a cat,0.jpg\nx 6",1.jpg\n', ["malformed_csv", ('x 6"', "1.jpg")]),
}


@pytest.mark.parametrize(("text", "expected"), IMAGE_LAST.values(), ids=IMAGE_LAST.keys())
def test_the_image_may_be_the_last_column(text: str, expected: list[tuple[str, ...] | str]) -> None:
    assert outcomes(text, Shape(width=2, image=1)) == expected


def test_lines_and_rows_have_a_largest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "MAX_LINE", 20)
    long = "0.jpg," + "x" * 30
    assert outcomes(f"{long}\n1.jpg,x\n") == ["line_too_long", ("1.jpg", "x")]
    assert outcomes(f'0.jpg,"A\n{long}\n1.jpg,x\n') == ["malformed_csv", "line_too_long", ("1.jpg", "x")]
    monkeypatch.setattr(csv_rows, "MAX_ROW", 3)
    assert outcomes('0.jpg,"a\nb\nc"\n') == [("0.jpg", "a\nb\nc")]
    assert outcomes('0.jpg,"a\nb\nc\nd"\n') == ["malformed_csv"] * 4


@given(
    st.lists(st.text('ab1.jpg ,;"\\\n\r\0\t', max_size=12) | st.sampled_from(["1.jpg,a\n", '2.jpg,"a\n', 'b"\n'])),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_line_is_in_exactly_one_row(parts: list[str], width: int, image: int) -> None:
    assume(image < width)
    text = "".join(parts).encode()
    lines = [line for line in io.BytesIO(text) if line.strip()]
    rows = rows_of(text, Shape(width, image))
    found = [line for row in rows for line in io.BytesIO(row.text) if line.strip()]
    assert found == lines
    assert [row.line for row in rows] == sorted({row.line for row in rows})
    for row in rows:
        assert (len(row.fields) == width) != bool(row.reason)
        if not row.reason:
            assert list(csv.reader(io.StringIO(row.text.decode(), newline=""), strict=True)) == [list(row.fields)]


words = st.lists(st.sampled_from(["a", " ", '"', ";", "\t", ", b"]), max_size=8).map(lambda parts: "x" + "".join(parts))
captions = st.lists(words, min_size=1, max_size=3).map("\n".join)
orders = st.permutations(["image", "caption", "id"]) | st.permutations(["image", "caption"])


def written(texts: list[str], order: list[str], quoting: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """The text of each row as Python's csv module and pandas write it, and its fields."""
    rows = [
        tuple({"image": f"{n}.jpg", "caption": text, "id": f"n{n}"}[name] for name in order)
        for n, text in enumerate(texts)
    ]
    out = []
    for row in rows:
        stream = io.StringIO(newline="")
        csv.writer(stream, quoting=quoting, lineterminator="\n").writerow(row)  # type: ignore[arg-type]
        out.append(stream.getvalue())
    return out, rows


@given(st.lists(captions, max_size=5), orders, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_exporters_write_is_read_as_it_was(texts: list[str], order: list[str], quoting: int) -> None:
    lines, rows = written(texts, order, quoting)
    assert outcomes("".join(lines), Shape(len(order), order.index("image"))) == rows


@given(st.lists(captions, min_size=2, max_size=6), orders, st.booleans(), st.data())
def test_a_stray_or_lost_quote_costs_no_other_row(
    texts: list[str], order: list[str], lost: bool, data: st.DataObject
) -> None:
    lines, rows = written(texts, order, csv.QUOTE_MINIMAL)
    bad = data.draw(st.integers(0, len(lines) - 1))
    line = lines[bad]
    places = [n for n, character in enumerate(line) if character == '"'] if lost else range(len(line))
    assume(places)
    place = data.draw(st.sampled_from(places))
    lines[bad] = line[:place] + line[place + 1 :] if lost else line[:place] + '"' + line[place:]
    first = sum(text.count("\n") for text in lines[:bad]) + 1
    last = first + lines[bad].count("\n") - 1
    found = rows_of("".join(lines).encode(), Shape(len(order), order.index("image")))
    others = [row for row in found if not first <= row.line <= last]
    assert [row.reason or row.fields for row in others] == rows[:bad] + rows[bad + 1 :]
