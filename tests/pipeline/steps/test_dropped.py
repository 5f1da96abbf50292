"""Records that a recipe drops are left out of packs and subsets, and counted by kind."""

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.steps.record_batches as record_batches
from model.errors import DataError
from pipeline.artifacts.store import Artifact
from pipeline.overlap.config import DropKind
from pipeline.schemas import OVERLAP
from pipeline.steps.dropped import Dropped
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.steps import test_pack, test_subset
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, table

names = st.text(alphabet="ab#1", min_size=1, max_size=3)
listed = st.lists(st.tuples(names, st.sampled_from([*get_args(DropKind), "pretrain_images"])), max_size=12)


@settings(deadline=None, max_examples=60)
@given(listed, st.permutations(get_args(DropKind)), st.integers(0, 3), st.lists(names, unique=True, max_size=12))
def test_a_record_is_dropped_once_for_the_first_kind_that_it_is_listed_with(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    order: list[DropKind],
    number: int,
    asked: list[str],
) -> None:
    kinds, folder = order[:number], tmp_path_factory.mktemp("rows")
    for part in range(2):
        found = [dict(zip(OVERLAP.names, (*row, "other"), strict=True)) for row in rows[part::2]]
        pq.write_table(pa.Table.from_pylist(found, schema=OVERLAP), folder / f"{part}.parquet")
    expected = {name: next((k for k in kinds if (name, k) in rows), None) for name in asked}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_batches, "BATCH_ROWS", 2)
        lookup = Dropped(kinds, sorted(folder.iterdir()))
    masks = [lookup.find(pa.array(part, pa.string()), count=True) for part in (asked[:5], asked[5:])]
    assert np.concatenate(masks).tolist() == [expected[name] is not None for name in asked]
    assert +lookup.counts == Counter(kind for kind in expected.values() if kind)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return test_pack.prepare(tmp_path_factory.mktemp("dropped"), test_pack.lines())[0]


@pytest.fixture(scope="module")
def inventory(workshop: Workshop) -> Artifact:
    return workshop.inventory()


def ids(artifact: Artifact, prefix: str = "part-") -> list[str]:
    found: list[str] = table(artifact, prefix).column("sample_id").to_pylist()
    return found


def listing(inventory: Artifact) -> list[tuple[str, str]]:
    """Five records of some kinds; the second has two of them."""
    some = ids(inventory, "records/")
    kinds = ("duplicates", "duplicates", "evaluation_images", "instruct_images", "pretrain_images")
    return [*zip(some[2:7], kinds, strict=True), (some[3], "evaluation_images")]


def test_a_pack_has_the_other_records_in_the_same_order(workshop: Workshop, inventory: Artifact) -> None:
    rows = listing(inventory)
    whole = workshop.run("pack", test_pack._params(), inventory=inventory)
    drop = ["evaluation_images", "duplicates"]
    packed = workshop.run(
        "pack", test_pack._params() | {"drop": drop}, inventory=inventory, overlap=workshop.overlap(rows)
    )
    left_out = {name for name, kind in rows if kind in drop}
    assert len(left_out) == 3
    assert left_out < set(ids(whole))
    assert ids(packed) == [name for name in ids(whole) if name not in left_out]
    counts, before = packed.manifest.counts, whole.manifest.counts
    assert (counts.rows_in, counts.not_selected) == (before.rows_in, 3)
    assert counts.rejected == before.rejected
    assert packed.manifest.statistics["dropped"] == {"evaluation_images": 2, "duplicates": 1}
    assert "dropped" not in whole.manifest.statistics


def test_a_subset_is_chosen_from_the_other_records(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, cambrian(tmp_path, test_subset.lines()))
    for n in range(7):
        (tmp_path / "images" / f"{n}.jpg").write_bytes(encoded(halves(20 + n, 10)))
    inventory = workshop.inventory()
    params: dict[str, Any] = {"size": None, "query": "caption", "turns": "one", "seed": 0}
    whole = workshop.run("subset", params, inventory=inventory)
    rows = [(name, "duplicates") for name in ids(whole, "queries/")[:4]]
    made = workshop.run(
        "subset", params | {"drop": ["duplicates"]}, inventory=inventory, overlap=workshop.overlap(rows)
    )
    kept = [name for name in ids(whole, "queries/") if (name, "duplicates") not in rows]
    assert ids(made, "queries/") == kept
    assert made.manifest.statistics["dropped"] == {"duplicates": 4}
    assert made.manifest.statistics["available"] == whole.manifest.statistics["available"] - 4
    assert made.manifest.counts.rows_in == test_subset.RECORDS
    assert "dropped" not in whole.manifest.statistics


@pytest.mark.parametrize("step", ["pack", "subset"])
def test_dropping_every_record_is_an_error(workshop: Workshop, inventory: Artifact, step: str) -> None:
    overlap = workshop.overlap([(name, "duplicates") for name in ids(inventory, "records/")])
    params = {"size": None, "query": "caption", "turns": "one", "seed": 0} if step == "subset" else test_pack._params()
    with pytest.raises(DataError, match=rf"records of {step}-pretrain .* nothing would be left:\n  duplicates: 30\n"):
        workshop.run(step, params | {"drop": ["duplicates"]}, inventory=inventory, overlap=overlap)
