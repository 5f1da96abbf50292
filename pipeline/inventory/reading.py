"""Read a split of the raw data: its records as columns, cut into pieces."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.shards import Content, Seal
from pipeline.artifacts.spec import canonical_json
from pipeline.compute.collection import collection_paused
from pipeline.inventory.job import (
    PIECE_BYTES,
    PIECE_ENTRIES,
    InventoryJob,
    Piece,
    buckets_of,
    deal,
    table_of,
    write_parts,
)
from pipeline.sources.interface import Split
from pipeline.sources.records import printable
from pipeline.sources.rows import READ, Rows

MAX_DETAIL = 1000  # characters
_PLAIN: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
"""Options of pyarrow for rows that are read once."""

# Rejected entries; the detail does not name the line, whose number in the whole data is not known yet.
REJECTED = pa.schema(
    [
        ("place", pa.int32()),
        ("number", pa.int64()),
        ("sample_id", pa.string()),
        ("given_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
READ_TRUTH = pa.schema(
    [
        ("place", pa.int32()),
        ("turn", pa.int32()),
        ("present", pa.bool_()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("rle", pa.string()),
    ]
)
IN_DOUBT = pa.schema([("place", pa.int32()), ("turns", pa.int32())])
"""Records with turns whose truth was left out."""
NAMED = pa.schema([("place", pa.int32()), ("image", pa.string())])
"""To buckets: the images that records name."""
IDS = pa.schema([("place", pa.int32()), ("high", pa.uint64()), ("low", pa.uint64())])
"""To buckets: the first 128 bits of the ids of all entries, rejected ones too."""


def split_name(number: int) -> str:
    """Name of the commit of a split."""
    return f"split-{number:05d}"


def piece_name(split: int, index: int) -> str:
    """Name of the commit of a piece of a split."""
    return f"piece-{split:05d}-{index:05d}"


@dataclass
class _Piece:
    """A piece while its batches are read."""

    tables: list[pa.Table] = field(default_factory=list)
    rejected: list[tuple[int, int, str, str, str, str]] = field(default_factory=list)
    truth: list[tuple[int, int, bool, int, int, str | None]] = field(default_factory=list)
    in_doubt: list[tuple[int, int]] = field(default_factory=list)
    entries: int = 0
    size: int = 0

    def add(self, rows: Rows) -> None:
        """Add a batch."""
        table = rows.table(self.entries)
        self.tables.append(table)
        self.size += table.nbytes
        for place, entry in rows.rejected:
            detail = printable(entry.detail[:MAX_DETAIL])
            where = self.entries + place
            self.rejected.append((where, entry.number, entry.sample_id, entry.given_id, entry.reason, detail))
        for place, turns in rows.truth.items():
            for turn, truth in enumerate(turns):
                if truth is not None:
                    row = (self.entries + place, turn, truth.present, truth.height, truth.width, truth.rle)
                    self.truth.append(row)
        self.in_doubt += [(self.entries + place, turns) for place, turns in rows.in_doubt.items()]
        self.entries += rows.entries

    @property
    def full(self) -> bool:
        """True if the piece ends here."""
        return self.entries >= PIECE_ENTRIES or self.size >= PIECE_BYTES

    def commit(self, job: InventoryJob, split: int, index: int) -> None:
        """Commit the work files of the piece."""
        rows = pa.concat_tables(self.tables).combine_chunks() if self.tables else READ.empty_table()
        rejected = table_of(self.rejected, REJECTED)
        named, ids = _named(rows), _ids(rows, rejected)
        images = named["image"].to_pylist()
        whole = {"rejected": rejected}
        if job.knows_truth:
            whole |= {"truth": table_of(self.truth, READ_TRUTH), "doubts": table_of(self.in_doubt, IN_DOUBT)}
        parts = {
            "named": deal(named, buckets_of(images, job.buckets), job.buckets),
            "ids": deal(ids, ids["high"].to_numpy() % job.buckets, job.buckets),
            **{name: [table] for name, table in whole.items()},
        }
        piece = Piece(split, index, 0, 0, self.entries)
        files: dict[str, Content] = {piece.file("rows", "parquet"): partial(_write_rows, rows)}
        files |= {piece.file(name): partial(write_parts, tables) for name, tables in parts.items()}
        job.work.commit(piece_name(split, index), files, self.entries)


def _write_rows(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path, **_PLAIN)


def _named(rows: pa.Table) -> pa.Table:
    return rows.select(["place", "image"]).filter(rows["image"].is_valid())


def _ids(rows: pa.Table, rejected: pa.Table) -> pa.Table:
    """The ids of all entries, as numbers."""
    both = pa.concat_tables([table.select(["place", "sample_id"]) for table in (rows, rejected)])
    text = "".join(both["sample_id"].to_pylist()).encode("ascii")
    digits = np.frombuffer(bytes.fromhex(text.decode("ascii")), dtype=">u8").reshape(-1, 4)
    high, low = (np.ascontiguousarray(digits[:, n].astype(np.uint64)) for n in (0, 1))
    return pa.table([both["place"].combine_chunks(), pa.array(high), pa.array(low)], schema=IDS)


def read_split(job: InventoryJob, split: Split, most: int | None) -> Seal:
    """Read a split, at most `most` entries of it, and commit its pieces and then the split.

    The seal's rows are its entries; its facts are 'pieces' (entries of each), 'lines', 'rejected' and 'changes'.
    """
    pieces: list[int] = []
    changes: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    last = 0
    piece = _Piece()

    def end_piece() -> None:
        piece.commit(job, split.number, len(pieces))
        pieces.append(piece.entries)

    with collection_paused():
        for rows in _up_to(job.dataset.open().read(split), most):
            piece.add(rows)
            changes.update(name for _, name in rows.changes)
            rejected.update(entry.reason for _, entry in rows.rejected)
            last = max(last, rows.last)
            if piece.full:
                end_piece()
                piece = _Piece()
        if piece.entries:
            end_piece()
    facts = {"pieces": pieces, "lines": last, "rejected": dict(rejected), "changes": dict(changes)}
    name = split_name(split.number)
    return job.work.commit(name, {f"{name}.json": canonical_json(facts).encode()}, sum(pieces), facts)


def is_whole(split: int, committed: Mapping[str, Seal]) -> bool:
    """True if a split and all of its pieces are committed."""
    seal = committed.get(split_name(split))
    return seal is not None and all(piece_name(split, n) in committed for n in range(len(seal.facts["pieces"])))


def _up_to(batches: Iterator[Rows], most: int | None) -> Iterator[Rows]:
    """Batches until they have `most` entries."""
    seen = 0
    for rows in batches:
        if most is not None and seen + rows.entries >= most:
            yield rows.first(most - seen)
            return
        yield rows
        seen += rows.entries


def pieces_of(seals: list[Seal]) -> list[Piece]:
    """The pieces of all splits in order."""
    pieces: list[Piece] = []
    lines = 0
    for split, seal in enumerate(seals):
        for index, entries in enumerate(seal.facts["pieces"]):
            pieces.append(Piece(split, index, len(pieces), lines, entries))
        lines += seal.facts["lines"]
    return pieces
