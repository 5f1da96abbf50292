"""Tables hold any text, and stay tables."""

import re

from hypothesis import given
from hypothesis import strategies as st

from model.markdown import cell, columns, table

UNESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\|")  # a bar after an even number of backslashes


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4))
def test_any_text_stays_in_its_cell(rows: list[tuple[str, str]]) -> None:
    lines = table(("what", "value"), rows).split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(len(UNESCAPED.findall(line)) == 3 for line in lines)
    assert not any("<" in line for line in lines)


def test_plain_text_is_left_as_it_is() -> None:
    assert cell("stage 4, lr 1e-05 `a_b`") == "stage 4, lr 1e-05 `a_b`"
    assert cell("a|b\n<c") == "a\\|b &lt;c"


def test_columns_have_a_row_for_every_fact() -> None:
    made = columns({"one": {"a": "1"}, "two": {"b": "2", "a": "3"}})
    assert made == "|  | one | two |\n| --- | --- | --- |\n| a | 1 | 3 |\n| b | - | 2 |"
