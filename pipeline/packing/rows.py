"""Turns a record into a training row: tokens, targets, and the character spans of each turn."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from model.agevlm.chat_text import Span, covered
from model.errors import DataError
from pipeline.packing.chat import Rendered, TextFormat
from pipeline.packing.formats import PlainFormat
from pipeline.sources.records import Turn


@dataclass(frozen=True)
class Row:
    """A conversation as tokens. Lists have one element per token."""

    input_ids: list[int]
    target: list[bool]
    token_starts: list[int]
    token_ends: list[int]
    turns: list[dict[str, int]]
    """Number and character spans of each turn that was kept."""
    dropped: int
    """Number of last turns that did not fit."""


class RowError(DataError):
    """A record that cannot become a row; `reason` is a short name to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def make_row(form: TextFormat, turns: Sequence[Turn], max_tokens: int) -> Row:
    """Render and tokenize a conversation; last turns that do not fit into `max_tokens` are dropped.

    Raises RowError with reason 'control_token' (the text has a token that starts or ends turns), 'several_turns' (the
    plain template has one caption), 'template' or 'too_long'.
    """
    if isinstance(form, PlainFormat) and len(turns) > 1:
        raise RowError("several_turns", f"the plain template writes one caption, but the record has {len(turns)} turns")
    for number, turn in enumerate(turns):
        for text in (turn.question, turn.answer):
            token = form.control_token(text)
            if token is not None:
                raise RowError("control_token", f"turn {number} contains the control token {token!r}")
    kept = len(turns)
    while True:
        try:
            rendered = form.render(turns[:kept])
        except DataError as error:
            raise RowError("template", str(error)) from error
        encoding = form.tokenizer.encode(rendered.text, add_special_tokens=False)
        if len(encoding.ids) <= max_tokens:
            return _row(rendered, list(encoding.ids), encoding.offsets, len(turns) - kept)
        if kept == 1:
            raise RowError("too_long", f"the first turn alone takes {len(encoding.ids)} tokens, more than {max_tokens}")
        # Only turns that end within the first max_tokens tokens can fit. The text after the last turn may still make
        # the row too long, so the loop tokenizes again and drops one more turn if needed.
        reach = encoding.offsets[max_tokens - 1][1]
        kept = max(1, min(kept - 1, bisect_right(rendered.ends, reach)))


def _row(rendered: Rendered, ids: list[int], offsets: Sequence[Span], dropped: int) -> Row:
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    spans = zip(rendered.questions, rendered.answers, strict=True)
    return Row(
        input_ids=ids,
        target=covered(offsets, rendered.targets),
        token_starts=starts,
        token_ends=ends,
        turns=[
            {"turn": n, "question_start": q[0], "question_end": q[1], "answer_start": a[0], "answer_end": a[1]}
            for n, (q, a) in enumerate(spans)
        ],
        dropped=dropped,
    )
