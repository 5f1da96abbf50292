"""Join the records of a piece with the facts about their images: one shard of the inventory."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from pipeline.artifacts.shards import Content, Seal
from pipeline.inventory.job import InventoryJob, Numbers, Piece, bucket_file
from pipeline.schemas import INVENTORY_REJECTS, RECORDS, TRUTH, part_name
from pipeline.sources.frames import SIDEWAYS, truth_in_frame
from pipeline.sources.records import Truth, copy_id


def shard_name(number: int) -> str:
    """Name of the commit of a shard."""
    return f"{number:05d}"


def join(job: InventoryJob, piece: Piece, count: int) -> Seal:
    """Make and commit the shard of a piece, one of `count`.

    The seal's facts are 'rejected' (reason -> entries) and 'statistics' (counts by name; those of repairs and formats
    begin with 'repair:' and 'format:').
    """
    joined = _Joined(job, piece)
    records, rejects = joined.records(), joined.rejects()
    statistics = joined.statistics(records)
    tables = {"records": records, "rejects": rejects}
    if job.knows_truth:
        tables["truth"] = joined.truth(records, statistics)
    files: dict[str, Content] = {
        part_name(piece.number, count, name): partial(_write, table) for name, table in tables.items()
    }
    facts = {"rejected": dict(Counter(rejects["reason"].to_pylist())), "statistics": dict(sorted(statistics.items()))}
    return job.shards.commit(shard_name(piece.number), files, len(records), facts)


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def _by_place(parts: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(parts).sort_by("place").combine_chunks()


class _Joined:
    """The rows of a piece, and what was found for those that name an image."""

    def __init__(self, job: InventoryJob, piece: Piece) -> None:
        self._job, self._piece = job, piece
        with job.work.open(piece.file("rows", "parquet")) as stream:
            self._rows = pq.read_table(stream)
        found, copies = (
            _by_place([job.read_part(bucket_file(bucket, table), piece.number) for bucket in range(job.buckets)])
            for table in ("found", "copies")
        )
        self._found = found
        self._numbers: Mapping[int, int] = dict(
            zip(copies["place"].to_pylist(), copies["copy"].to_pylist(), strict=True)
        )
        """Place -> number of an exact copy after the first."""
        self._has_image = np.asarray(self._rows["image"].is_valid())
        """(rows,) True for rows that name an image."""
        self._at = self._positions()
        """(rows with an image,) where each of them is in `found`."""
        self._good = np.ones(len(self._rows), dtype=bool)
        """(rows,) True for rows that are kept."""
        self._good[self._has_image] = np.asarray(pc.equal(found["reason"], ""))[self._at]
        self._facts = found.take(pa.array(self._at[self._good[self._has_image]]))
        """Rows of `found` of the kept rows with an image."""

    def _positions(self) -> Numbers:
        places, where = self._rows["place"].to_numpy()[self._has_image], self._found["place"].to_numpy()
        at: Numbers = np.searchsorted(where, places)
        assert np.array_equal(where[at], places)
        return at

    def records(self) -> pa.Table:
        """The records that are kept."""
        spread = np.full(len(self._rows), -1)
        spread[self._has_image] = self._at
        where = pa.array(spread[self._good], pa.int64(), mask=spread[self._good] < 0)
        facts, kept = self._found.take(where), self._rows.filter(pa.array(self._good))
        columns = {
            "sample_id": self._sample_ids(kept),
            "given_id": kept["given_id"],
            "source": kept["source"],
            "has_image": pa.array(self._has_image[self._good]),
            "turns": kept["turns"],
            **{name: facts[name] for name in ("image", "image_sha256", "image_format", "width", "height")},
        }
        return pa.table([columns[name] for name in RECORDS.names], schema=RECORDS)

    def rejects(self) -> pa.Table:
        """The rejected entries of the piece in the order of the data."""
        early = self._job.read_table(self._piece.file("rejected"))
        facts = self._found.take(pa.array(self._at[~self._good[self._has_image]]))
        late = self._rows.filter(pa.array(~self._good)).select(["place", "number", "sample_id", "given_id"])
        for name in ("reason", "detail"):
            late = late.append_column(name, facts[name])
        both = pa.concat_tables([early, late]).sort_by("place")
        lines = pc.add(both["number"], self._piece.first_line)
        details = [
            f"{self._job.unit} {line}: {detail}" if self._job.unit else detail
            for line, detail in zip(lines.to_pylist(), both["detail"].to_pylist(), strict=True)
        ]
        return pa.table(
            [self._sample_ids(both), both["reason"], pa.array(details, pa.string()), lines, both["given_id"]],
            schema=INVENTORY_REJECTS,
        )

    def statistics(self, records: pa.Table) -> Counter[str]:
        """Counts of the records that are kept."""
        with_image = int(pc.sum(records["has_image"]).as_py() or 0)
        counts = Counter(
            turns=int(pc.sum(pc.list_value_length(records["turns"])).as_py() or 0),
            with_image=with_image,
            text_only=len(records) - with_image,
            exact_copies=sum("#" in sample_id for sample_id in records["sample_id"].to_pylist()),
        )
        for repairs in self._facts["repairs"].to_pylist():
            counts.update(f"repair:{name}" for name in repairs.split())
        counts.update(f"format:{name}" for name in self._facts["image_format"].to_pylist())
        return counts

    def truth(self, records: pa.Table, statistics: Counter[str]) -> pa.Table:
        """The ground truth of the records, of those turns whose annotation is for a picture of this size.

        What is left out is added to the statistics.
        """
        kept = self._good & self._has_image
        places = self._rows["place"].to_numpy()[kept].tolist()
        ids = records.filter(records["has_image"])["sample_id"].to_pylist()
        sizes = zip(*(self._facts[name].to_pylist() for name in ("height", "width", "orientation")), strict=True)
        known = dict(zip(places, zip(ids, sizes, strict=True), strict=True))
        made: list[dict[str, Any]] = []
        for row in self._job.read_table(self._piece.file("truth")).to_pylist():
            if row["place"] not in known:
                continue
            sample_id, (height, width, orientation) = known[row["place"]]
            stored = (width, height) if orientation in SIDEWAYS else (height, width)
            drawn = Truth(row["present"], row["height"], row["width"], row["rle"])
            truth = truth_in_frame(drawn, orientation, *stored, self._job.frame)
            if truth is None:
                statistics["truth_in_doubt"] += 1
            elif truth.present and (truth.height, truth.width) != (height, width):
                # The annotation is for another orientation or size of the image: its mask would be in the wrong place.
                statistics["truth_of_another_size"] += 1
            else:
                rle = truth.rle if truth.present else None
                what = {"sample_id": sample_id, "turn": row["turn"], "present": truth.present, "rle": rle}
                made.append(what | {"height": height, "width": width})
        doubts = self._job.read_table(self._piece.file("doubts")).to_pylist()
        in_doubt = sum(row["turns"] for row in doubts if row["place"] in known)
        statistics.update({"truth_in_doubt": in_doubt} if in_doubt else {})
        statistics["turns_with_truth"] += len(made)
        return pa.Table.from_pylist(made, schema=TRUTH)

    def _sample_ids(self, table: pa.Table) -> pa.Array:
        """Sample ids with the numbers of exact copies."""
        if not self._numbers:
            return table["sample_id"]
        pairs = zip(table["sample_id"].to_pylist(), table["place"].to_pylist(), strict=True)
        return pa.array([copy_id(sample_id, self._numbers.get(place, 0)) for sample_id, place in pairs], pa.string())
