"""Rows of a source as records, one by one."""

from pipeline.sources.interface import RawSource
from pipeline.sources.records import Entry, Record, Turn
from pipeline.sources.rows import Rows


def entries_of(source: RawSource) -> list[Entry]:
    """All entries of a source in order; numbers are those in their split."""
    return [entry for split in source.splits() for rows in source.read(split) for entry in rows_to_entries(rows)]


def rows_to_entries(rows: Rows) -> list[Entry]:
    """The entries of a batch in order."""
    found: dict[int, Entry] = dict(rows.rejected)
    turns = iter(zip(rows.questions, rows.answers, strict=True))
    columns = zip(
        rows.places, rows.numbers, rows.sample_ids, rows.given_ids, rows.sources, rows.images, rows.turns, strict=True
    )
    for place, number, sample_id, given_id, source, image, count in columns:
        found[place] = Record(
            sample_id=sample_id,
            given_id=given_id,
            image=image,
            turns=tuple(Turn(*next(turns)) for _ in range(count)),
            truth=rows.truth.get(place),
            truth_in_doubt=rows.in_doubt.get(place, 0),
            number=number,
            source=source,
            changes=tuple(name for where, name in rows.changes if where == place),
        )
    assert sorted(found) == list(range(rows.entries))
    return [found[place] for place in range(rows.entries)]
