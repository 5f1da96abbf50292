"""The words of the guided tokens against the words that were sent to Florence-2: both as text, without any offsets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.training.alignment.evidence import Fact
from pipeline.training.data.pack_reader import Span

Run = tuple[int, int]
"""Tokens [first, last) that follow each other."""


class Tokenizer(Protocol):
    """The two functions of a `tokenizers.Tokenizer` that are used here."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = ...) -> str: ...

    def encode(self, sequence: str, *, add_special_tokens: bool = ...) -> "Encoded": ...


class Encoded(Protocol):
    """Tokens of a text."""

    @property
    def ids(self) -> list[int]: ...


@dataclass(frozen=True)
class Words:
    """Reads tokens as text.

    Args:
        tokenizer: the one of the student (`processor.tokenizer.backend_tokenizer`).
    """

    tokenizer: Tokenizer

    def text(self, ids: npt.NDArray[np.int64]) -> str:
        """The text of tokens, with the template's own tokens."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def problem(self, ids: npt.NDArray[np.int64], guided: npt.NDArray[np.bool_], parts: Sequence[str]) -> str:
        """The reason why the guided tokens of a row are not those of the text's parts, each in order; '' if they are.

        A token at an edge may reach beyond its part, because a token counts if it covers a character of it.
        """
        runs = list(self._runs(ids, guided, len(parts)))
        if len(runs) != len(parts):
            return f"{len(runs)} pieces of the conversation are guided, not {len(parts)}"
        for run, part in zip(runs, parts, strict=True):
            if not self._covers(ids, run, part):
                return f"the guided tokens say {self.text(ids[slice(*run)])!r}"
        return ""

    def occurrences(self, ids: npt.NDArray[np.int64], part: str) -> int:
        """Places of the conversation that have this text; with more than one, the text alone cannot tell the turn."""
        return len(list(_places(self.text(ids), part)))

    def _runs(self, ids: npt.NDArray[np.int64], guided: npt.NDArray[np.bool_], parts: int) -> Iterator[Run]:
        """The runs of guided tokens. Gaps without any text are closed: some tokenizers have tokens of no width."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], guided, [False]]).astype(np.int8)))
        runs = [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
        if len(runs) <= parts:
            yield from runs
            return
        first, last = runs[0]
        for start, end in runs[1:]:
            if self.text(ids[last:start]):
                yield first, last
                first = start
            last = end
        yield first, last

    def _covers(self, ids: npt.NDArray[np.int64], run: Run, part: str) -> bool:
        """True if a run holds the part, and its first and last token each hold a character of it."""
        first, last = run
        whole = self.text(ids[first:last])
        # Text that a token adds at each edge. Tokens that are pieces of one character can have none of their own.
        left = max(1, len(whole) - len(self.text(ids[first + 1 : last])))
        right = max(1, len(whole) - len(self.text(ids[first : last - 1])))
        return any(
            place < left and len(whole) - place - len(form) < right
            for form in dict.fromkeys(self._forms(part))
            for place in _places(whole, form)
        )

    def _forms(self, part: str) -> Iterator[str]:
        """The part as it is, and as the tokenizer writes it: it may normalise characters or not know them."""
        yield part
        yield self.text(np.array(self.tokenizer.encode(part, add_special_tokens=False).ids, dtype=np.int64))
        yield part.strip()  # some decoders take the first space off


def parts_of(fact: Fact, span: Span) -> list[str]:
    """The parts of a fact's text that stand in the conversation: of the question, of the answer, or of both.

    Only the length of the question comes from the pack. A plain template has no question.
    """
    question = max(0, span.question_end - span.question_start - fact.char_start)
    answer = max(0, span.question_end - span.question_start + 1 - fact.char_start)
    parts = [fact.query[:question] if span.question_start >= 0 else "", fact.query[answer:]]
    return [part for part in parts if part]


def _places(text: str, part: str) -> Iterator[int]:
    if part:
        place = text.find(part)
        while place >= 0:
            yield place
            place = text.find(part, place + 1)
