"""Shards: cut once and for all, committed whole or not at all."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.masks.shards import Commits, commit, cut, facts_of, read_part, read_parts, seal_commit
from pipeline.schemas import EVIDENCE, MASKS, QUERIES


def queries(per_image: list[int]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for image, count in enumerate(per_image):
        base = dict.fromkeys(QUERIES.names)
        rows += [{**base, "image": f"{image}.jpg", "image_sha256": str(image), "turn": t} for t in range(count)]
    return pa.Table.from_pylist(rows, schema=QUERIES)


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 9))
def test_shards_are_the_queries_in_order_and_never_part_an_image(per_image: list[int], shard_images: int) -> None:
    table = queries(per_image)
    shards = cut(table, shard_images)
    assert pa.concat_tables(shards).equals(table)
    images = [set(shard["image"].to_pylist()) for shard in shards]
    assert sum(len(own) for own in images) == len(per_image)
    assert all(len(own) == shard_images for own in images[:-1])
    assert len(images[-1]) <= shard_images
    assert len(shards) == max(1, -(-len(per_image) // shard_images))


def test_an_image_whose_rows_are_apart_is_refused() -> None:
    table = queries([1, 1])
    with pytest.raises(DataError, match="stand together"):
        cut(pa.concat_tables([table, table]), 4)


def evidence(rows: int) -> pa.Table:
    return pa.Table.from_pylist([{**dict.fromkeys(EVIDENCE.names), "turn": t} for t in range(rows)], schema=EVIDENCE)


def test_commits_are_whole_and_say_what_is_missing(tmp_path: Path) -> None:
    shards = [queries([2]), queries([1, 1]), queries([3])]
    commits = Commits(tmp_path / "shards", shards)
    assert commits.missing() == [0, 1, 2]
    commit(commits.path(1), evidence(2), {"shard": 1})
    assert Commits(tmp_path / "shards", shards).missing() == [0, 2]
    assert facts_of(commits.path(1)) == {"shard": 1}
    assert read_part(commits.path(1), EVIDENCE).equals(evidence(2))
    names = sorted(file.name for file in commits.folder.iterdir())
    assert names == ["part-00001-of-00003.parquet", "part-00001-of-00003.parquet.sha256"]
    commit(commits.path(0), evidence(1), {})
    assert commits.missing() == [0, 2], "a file with fewer rows than the shard is no commit of it"
    seal_commit(commits.path(2), commits.path(1).read_bytes()[:-40])
    assert commits.missing() == [0, 2], "nor is a torn file"
    commits.drop(1)
    assert commits.missing() == [0, 1, 2]


def full(rows: int) -> pa.Table:
    """Evidence with something in every column."""
    instance = {"polygons": [[0.5, 1.0]], "box": [0.0], "rle": "04", "area": 3, "sam_iou": 0.5, "agreement_iou": 0.25}
    row = {"sample_id": "s", "query_kind": "caption", "char_start": 0, "char_end": 3, "image_sha256": "0" * 64}
    row |= {"height": 4, "width": 5, "query": "A dog", "status": "segmented", "reason": "", "teacher": "t"}
    values = [
        {**row, "turn": n, "polygon_score": n / 7, "instances": [{**instance, "area": n + k} for k in range(n % 3)]}
        for n in range(rows)
    ]
    return pa.Table.from_pylist(values, schema=EVIDENCE)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_commit_is_missing_or_unharmed(tmp_path: Path, data: st.DataObject) -> None:
    """Footer, page or metadata: whatever is changed, the shard is computed again."""
    commits, table = Commits(tmp_path / "shards", [full(9)]), full(9)
    commit(commits.path(0), table, {"shard": 0, "device": "cpu"})
    whole = commits.path(0).read_bytes()
    content = bytearray(whole)
    start = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=16))
    content[start : start + len(damage)] = damage
    commits.path(0).write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    unharmed = commits.path(0).read_bytes() == whole
    assert commits.missing() == ([] if unharmed else [0])


def test_a_damaged_page_is_no_commit(tmp_path: Path) -> None:
    commits = Commits(tmp_path / "shards", [full(9)])
    commit(commits.path(0), full(9), {})
    content = bytearray(commits.path(0).read_bytes())
    column = pq.read_metadata(commits.path(0)).row_group(0).column(0)
    content[column.dictionary_page_offset + column.total_compressed_size - 3] ^= 1
    commits.path(0).write_bytes(content)
    assert commits.missing() == [0]
    with pytest.raises(DataError, match=r"part-00000-of-00001\.parquet cannot be read .*; run the step"):
        read_part(commits.path(0), EVIDENCE)


def test_faults_are_the_errors_by_name(tmp_path: Path) -> None:
    commits = Commits(tmp_path / "shards", [queries([3])])
    rows = full(3).to_pylist()
    rows[1] |= {"status": "error", "reason": "image_changed: gone: 5.jpg"}
    rows[2] |= {"status": "no_region"}
    commit(commits.path(0), pa.Table.from_pylist(rows, schema=EVIDENCE), {})
    assert commits.faults(0) == [("s/1/caption", "image_changed", "image_changed: gone: 5.jpg")]


def test_the_bytes_of_a_commit_depend_on_its_content_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        commit(tmp_path / name, evidence(5), {"y": 1, "x": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match="schema"):
        commit(tmp_path / "c", queries([1]), {})
    assert not (tmp_path / "c").exists()


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(queries([1]), tmp_path / "part-00000-of-00001.parquet")
    assert len(read_parts(tmp_path, QUERIES)) == 1
    with pytest.raises(DataError, match="run its step again"):
        read_parts(tmp_path, MASKS)
    with pytest.raises(DataError, match=r"no part-\*"):
        read_parts(tmp_path, QUERIES, "queries")
