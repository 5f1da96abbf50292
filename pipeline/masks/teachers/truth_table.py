"""Ground truth of an inventory (TRUTH), looked up by sample and turn. Memory holds an index, a temporary file the rest.

200,000 rows take 6 MB of memory for the index; the masks are mapped, so that a shard's lookups read its own pages.
"""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.store import ArtifactStore
from pipeline.masks.parts import read_part
from pipeline.schemas import TRUTH

BATCH_ROWS = 4096  # rows of a record batch of the temporary file


class TruthTable:
    """Rows of TRUTH by (sample_id, turn). Made once in each process that looks rows up."""

    def __init__(self, table: pa.Table, ids: npt.NDArray[np.bytes_], turns: npt.NDArray[np.int32]) -> None:
        self._table = table
        self._order = np.lexsort((turns, ids))
        self._ids, self._turns = ids[self._order], turns[self._order]

    @classmethod
    def open(cls, files: Sequence[str], store: ArtifactStore) -> Self:
        """Read the parts one by one into a temporary file and map it. Raises DataError if a part cannot be read."""
        ids: list[npt.NDArray[np.bytes_]] = [np.empty(0, dtype="S1")]
        turns: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
        with tempfile.NamedTemporaryFile(prefix="truth-", suffix=".arrow") as file:
            with pa.ipc.new_file(file, TRUTH) as sink:
                for path in files:
                    part = read_part(path, TRUTH, store.fs)
                    sink.write_table(part, max_chunksize=BATCH_ROWS)
                    ids.append(_bytes(part["sample_id"]))
                    turns.append(part["turn"].to_numpy())
            file.flush()
            # The mapping outlives the file's name, so nothing is left behind when the process is killed later.
            table = pa.ipc.open_file(pa.memory_map(file.name)).read_all()
        return cls(table, np.concatenate(ids), np.concatenate(turns))

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, sample_id: str, turn: int) -> dict[str, Any] | None:
        """The truth of one turn (a row of TRUTH); None if there is none."""
        key = sample_id.encode()
        if len(key) > self._ids.dtype.itemsize:
            return None
        first, last = (int(np.searchsorted(self._ids, np.bytes_(key), side)) for side in ("left", "right"))
        place = first + int(np.searchsorted(self._turns[first:last], turn))
        if place == last or self._turns[place] != turn:
            return None
        row: dict[str, Any] = self._table.slice(int(self._order[place]), 1).to_pylist()[0]
        return row


def _bytes(column: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """A column of strings as fixed-width bytes; far less memory than Python's strings."""
    longest = pc.max(pc.binary_length(column)).as_py() or 1
    return np.fromiter(_encoded(column), dtype=f"S{longest}", count=len(column))


def _encoded(column: pa.ChunkedArray) -> Iterator[bytes]:
    for batch in column.chunks:
        for start in range(0, len(batch), BATCH_ROWS):
            for text in batch.slice(start, BATCH_ROWS).to_pylist():
                yield text.encode()
