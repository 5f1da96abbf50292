"""Records as columns: the form in which sources hand on what they read."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.sources.records import Entry, Rejected, Truth

BATCH = 2048  # entries of one batch of a source that makes them one by one


@dataclass(slots=True)
class Rows:
    """Some entries of a raw data set, in order: usable records as columns, and rejected ones.

    An entry's *place* is its position among all entries of the batch, usable or not.
    """

    entries: int = 0
    """Records and rejections."""
    last: int = 0
    """Number of the last line (or row) that was read, also if it was blank."""
    places: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    sample_ids: list[str] = field(default_factory=list)
    given_ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    images: list[str | None] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    """Turns of each record; their texts are in `questions` and `answers`, one after the other."""
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    truth: dict[int, tuple[Truth | None, ...]] = field(default_factory=dict)
    """Place -> ground truth of the record's turns."""
    in_doubt: dict[int, int] = field(default_factory=dict)
    """Place -> turns whose truth was left out, where there are any."""
    rejected: list[tuple[int, Rejected]] = field(default_factory=list)
    """Place and rejection."""
    changes: list[tuple[int, str]] = field(default_factory=list)
    """Place and name of each change that was made in a usable record."""

    def add(self, entry: Entry) -> None:
        """Add one entry."""
        place, self.entries, self.last = self.entries, self.entries + 1, entry.number
        if isinstance(entry, Rejected):
            self.rejected.append((place, entry))
            return
        self.places.append(place)
        self.numbers.append(entry.number)
        self.sample_ids.append(entry.sample_id)
        self.given_ids.append(entry.given_id)
        self.sources.append(entry.source)
        self.images.append(entry.image)
        self.turns.append(len(entry.turns))
        self.questions.extend(turn.question for turn in entry.turns)
        self.answers.extend(turn.answer for turn in entry.turns)
        self.changes.extend((place, name) for name in entry.changes)
        if entry.truth is not None:
            self.truth[place] = entry.truth
        if entry.truth_in_doubt:
            self.in_doubt[place] = entry.truth_in_doubt

    def first(self, count: int) -> "Rows":
        """The first `count` entries."""
        records = bisect_left(self.places, count)
        turns = sum(self.turns[:records])
        return Rows(
            entries=min(self.entries, count),
            last=self.last,
            places=self.places[:records],
            numbers=self.numbers[:records],
            sample_ids=self.sample_ids[:records],
            given_ids=self.given_ids[:records],
            sources=self.sources[:records],
            images=self.images[:records],
            turns=self.turns[:records],
            questions=self.questions[:turns],
            answers=self.answers[:turns],
            truth={place: truth for place, truth in self.truth.items() if place < count},
            in_doubt={place: turns for place, turns in self.in_doubt.items() if place < count},
            rejected=[(place, entry) for place, entry in self.rejected if place < count],
            changes=[(place, name) for place, name in self.changes if place < count],
        )

    def table(self, first: int) -> pa.Table:
        """The usable records as a table (READ); `first` is added to the places."""
        offsets = np.zeros(len(self.turns) + 1, dtype=np.int32)
        np.cumsum(self.turns, out=offsets[1:])
        texts = [pa.array(self.questions, pa.string()), pa.array(self.answers, pa.string())]
        turns = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(texts, ["question", "answer"]))
        places = np.asarray(self.places, dtype=np.int32) + np.int32(first)
        columns = [
            pa.array(places),
            pa.array(self.numbers, pa.int64()),
            pa.array(self.sample_ids, pa.string()),
            pa.array(self.given_ids, pa.string()),
            pa.array(self.sources, pa.string()),
            pa.array(self.images, pa.string()),
            turns,
        ]
        return pa.table(columns, schema=READ)


_TURN = pa.struct([("question", pa.string()), ("answer", pa.string())])
READ = pa.schema(
    [
        ("place", pa.int32()),  # among all entries of a piece
        ("number", pa.int64()),  # line or row in its split
        ("sample_id", pa.string()),  # exact copies have the same
        ("given_id", pa.string()),
        ("source", pa.string()),
        ("image", pa.string()),  # as the raw data names it
        ("turns", pa.list_(_TURN)),
    ]
)


def batches(entries: Iterable[Entry]) -> Iterator[Rows]:
    """Entries in batches, for a source that makes them one by one."""
    rows = Rows()
    for entry in entries:
        rows.add(entry)
        if rows.entries == BATCH:
            yield rows
            rows = Rows()
    if rows.entries:
        yield rows
