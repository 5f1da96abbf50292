"""Shards: cut once and for all, committed whole or not at all."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.masks.shards import Commits, commit, cut, facts_of, read_part, read_parts
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
    assert [file.name for file in commits.folder.iterdir()] == ["part-00001-of-00003.parquet"]
    commit(commits.path(0), evidence(1), {})
    assert commits.missing() == [0, 2], "a file with fewer rows than the shard is no commit of it"
    commits.path(2).write_bytes(commits.path(1).read_bytes()[:-40])
    assert commits.missing() == [0, 2], "nor is a torn file"
    commits.drop(1)
    assert commits.missing() == [0, 1, 2]


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
