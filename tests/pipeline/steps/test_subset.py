"""subset: a choice that depends on the seed and the ids only."""

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.compute.sorting as sorting
import pipeline.steps.record_batches as record_batches
import pipeline.steps.subset as subset
from model.errors import ConfigError, DataError
from pipeline.artifacts.store import Artifact
from pipeline.plan.parameters import SubsetParams
from pipeline.schemas import QUERIES
from pipeline.sources.conversation import query_span, turn_text
from pipeline.sources.records import Turn, order_key
from pipeline.steps.subset import pick_turns
from tests.pipeline.fixtures_inventories import publish_inventory
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, chat, table

RECORDS = 60


def lines() -> list[dict[str, Any] | str]:
    """Records with one to three turns; every sixth is text only, every tenth has no question; images repeat."""
    made: list[dict[str, Any] | str] = []
    for n in range(RECORDS):
        shown, image = ("", {}) if n % 6 == 5 else ("<image>", {"image": f"{n % 7}.jpg"})
        asked = shown if n % 10 == 0 else f"{shown}\nQuestion {n}?"
        turns = [(asked, f"Answer {n}."), *((f"More {n}.{k}?", f"Yes {k}.") for k in range(n % 3))]
        made.append({"id": n, "conversations": chat(*turns)} | image)
    return made


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("subset")
    source = cambrian(folder, lines())
    for n in range(7):
        (folder / "images" / f"{n}.jpg").write_bytes(encoded(halves(20 + n // 2 * 2, 10), "PNG"))  # some are equal
    return Workshop(folder, source)


@pytest.fixture(scope="module")
def inventory(workshop: Workshop) -> Artifact:
    return workshop.inventory()


def make(workshop: Workshop, inventory: Artifact, **changes: Any) -> Artifact:
    params = {"size": 12, "query": "caption", "turns": "one", "seed": 0}
    return workshop.run("subset", params | changes, inventory=inventory)


@pytest.mark.parametrize("kind", ["caption", "question", "question_and_answer"])
@pytest.mark.parametrize("turns", ["one", "all"])
def test_queries_are_cut_from_their_turn(workshop: Workshop, inventory: Artifact, kind: str, turns: str) -> None:
    artifact = make(workshop, inventory, query=kind, turns=turns)
    queries = table(artifact, "queries/")
    assert queries.schema.equals(QUERIES)
    records = {row["sample_id"]: row for row in table(inventory, "records/").to_pylist()}
    for row in queries.to_pylist():
        record = records[row["sample_id"]]
        turn = Turn(**record["turns"][row["turn"]])
        assert turn_text(turn)[row["char_start"] : row["char_end"]] == row["query"] != ""
        assert row["query_kind"] == kind
        whole = f"{turn.question} {turn.answer}".strip()
        assert row["query"] == {"caption": turn.answer, "question": turn.question}.get(kind, whole)
        for name in ("image_sha256", "height", "width", "image"):
            assert row[name] == record[name]
    numbers = Counter(queries.column("sample_id").to_pylist())
    assert len(numbers) == 12
    for sample_id, number in numbers.items():
        able = [t for t in records[sample_id]["turns"] if kind != "question" or t["question"]]
        assert number == (len(able) if turns == "all" else 1)


def test_every_record_is_chosen_or_counted_by_reason(workshop: Workshop, inventory: Artifact) -> None:
    artifact = make(workshop, inventory, query="question", size=None)
    counts, statistics = artifact.manifest.counts, artifact.manifest.statistics
    # No image: 10 records (n % 6 == 5). Of those with an image, n = 0 and n = 30 have a single turn without a question.
    assert statistics["text_only"] == 10
    assert statistics["empty_question"] == 2
    assert (counts.rows_in, counts.rows_out, counts.not_selected) == (60, 48, 12)
    assert statistics["available"] == statistics["queries"] == 48
    assert statistics["not_chosen"] == 0
    assert not statistics["fewer_than_requested"]


def test_a_size_above_the_available_records_takes_all_and_is_reported(workshop: Workshop, inventory: Artifact) -> None:
    artifact = make(workshop, inventory, size=1000)
    assert artifact.manifest.counts.rows_out == 50
    assert artifact.manifest.statistics["requested"] == 1000
    assert artifact.manifest.statistics["available"] == 50
    assert artifact.manifest.statistics["fewer_than_requested"] is True


def test_queries_of_an_image_are_adjacent_in_a_seeded_order(
    workshop: Workshop, inventory: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset, "QUERIES_PER_SHARD", 7)
    orders = []
    for seed in (0, 1):
        artifact = make(workshop, inventory, size=None, turns="all", seed=seed)
        assert len(artifact.matching("queries/")) > 5
        rows = table(artifact, "queries/").to_pylist()
        for column in ("image", "image_sha256"):
            seen = [row[column] for row in rows]
            runs = [seen[0], *(b for a, b in itertools.pairwise(seen) if a != b)]
            assert len(runs) == len(set(runs)), column
        orders.append(runs)
        assert artifact.manifest.statistics["images"] == len(runs)
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_the_file_order_changes_nothing(workshop: Workshop, inventory: Artifact, tmp_path: Path) -> None:
    shuffled = lines()
    random.Random(3).shuffle(shuffled)
    source = cambrian(tmp_path, shuffled)
    for file in (workshop.folder / "images").iterdir():
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    other = Workshop(tmp_path, source)
    first, second = make(workshop, inventory), make(other, other.inventory())
    assert table(second, "queries/").equals(table(first, "queries/"))


def naive(inventory: Artifact, size: int | None, turns: str) -> list[dict[str, Any]]:
    """The rows of a subset of captions by a plain sort of all records, then of all queries."""
    records = [row for row in table(inventory, "records/").to_pylist() if row["has_image"]]
    first = sorted(records, key=lambda row: order_key("subset", 0, row["sample_id"]))[:size]
    params = SubsetParams(size=size, query="caption", turns=turns, seed=0)
    rows = []
    for record in first:
        said = [Turn(**turn) for turn in record["turns"]]
        for number in pick_turns(record["sample_id"], said, params):
            start, end = query_span(said[number], "caption")
            own = {name: record[name] for name in ("sample_id", "image_sha256", "height", "width", "image")}
            query = {"query_kind": "caption", "char_start": start, "char_end": end, "query": said[number].answer}
            rows.append({"turn": number, **own, **query})
    return sorted(
        rows,
        key=lambda row: (order_key("images", 0, row["image_sha256"]), row["image"], row["sample_id"], row["turn"]),
    )


@pytest.mark.parametrize("size", [1, 12, None])
@pytest.mark.parametrize("turns", ["one", "all"])
@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_the_rows_are_those_of_a_plain_sort(
    workshop: Workshop,
    inventory: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int | None,
    turns: str,
    memory: int,
) -> None:
    monkeypatch.setattr(subset, "QUERIES_PER_SHARD", 7)
    monkeypatch.setattr(sorting, "BUCKET_BYTES", memory)
    monkeypatch.setattr(record_batches, "BATCH_ROWS", 11)
    other, rows = Workshop(tmp_path, workshop.source), table(inventory, "records/")
    again = publish_inventory(other.store, [rows.slice(23), rows.slice(0, 23)], 2)
    artifact = make(other, again, size=size, turns=turns)
    expected = pa.Table.from_pylist(naive(inventory, size, turns), schema=QUERIES)
    assert table(artifact, "queries/").equals(expected)
    assert [pq.read_metadata(artifact.path(file)).num_rows for file in artifact.matching("queries/")][:-1] == [7] * (
        (len(expected) - 1) // 7
    )
    assert artifact.manifest.statistics["images"] == len(set(expected.column("image_sha256").to_pylist()))


@given(st.text(min_size=1), st.lists(st.booleans(), min_size=1, max_size=6).filter(any))
def test_one_turn_is_chosen_among_those_with_a_question(sample_id: str, asked: list[bool]) -> None:
    turns = [Turn("Q" if has else "", "A") for has in asked]
    params = SubsetParams(size=None, query="question", turns="one", seed=0)
    (number,) = pick_turns(sample_id, turns, params)
    assert asked[number]
    assert pick_turns(sample_id, turns, params) == [number]


def test_every_turn_is_chosen_about_equally_often() -> None:
    turns = [Turn("Q", "A")] * 3
    params = SubsetParams(size=None, query="caption", turns="one", seed=0)
    chosen = Counter(pick_turns(f"sample {n}", turns, params)[0] for n in range(600))
    assert all(150 < chosen[number] < 250 for number in range(3))


@pytest.mark.parametrize(("kind", "reason"), [("caption", "text_only: 2"), ("question", "empty_question: 3")])
def test_a_data_set_without_a_usable_record_is_an_error(tmp_path: Path, kind: str, reason: str) -> None:
    made: list[dict[str, Any] | str] = [{"conversations": chat((f"Q{n}", "A"))} for n in range(2)]
    if kind == "question":
        made += [{"image": "0.jpg", "conversations": chat(("<image>", f"A{n}"))} for n in range(3)]
    workshop = Workshop(tmp_path, cambrian(tmp_path, made))
    (tmp_path / "images" / "0.jpg").write_bytes(encoded(halves()))
    inventory = workshop.inventory()
    with pytest.raises(DataError, match=rf"records of subset-pretrain .* nothing would be left:\n(.*\n)*  {reason}\n"):
        make(workshop, inventory, query=kind)


paths = st.text(alphabet="a./0\u00e9\U0001f600", min_size=1, max_size=4)


@given(st.lists(st.tuples(st.sampled_from("xy"), paths, paths, st.integers(0, 70000)), unique=True, max_size=30))
def test_sort_keys_have_the_order_of_their_columns(rows: list[tuple[str, str, str, int]]) -> None:
    columns = dict(zip(("image_sha256", "image", "sample_id", "turn"), zip(*rows, strict=True), strict=False))
    keys = subset._keys(pa.table(columns or {key: [] for key in QUERIES.names}), 3).to_pylist()
    by_key = [row for _, row in sorted(zip(keys, rows, strict=True))]
    assert by_key == sorted(rows, key=lambda row: (order_key("images", 3, row[0]), *row[1:]))


def with_sources(inventory: Artifact, folder: Path) -> tuple[Workshop, Artifact]:
    """The inventory with records of three sources, 'a' to 'c', by the number of the record; in one file."""
    rows = table(inventory, "records/")
    names = pa.array(["abc"[int(n) % 3] for n in rows.column("given_id").to_pylist()])
    rows = rows.set_column(rows.column_names.index("source"), "source", names)
    made = Workshop(folder, cambrian(folder, []))
    return made, publish_inventory(made.store, [rows])


def test_quotas_take_the_first_records_of_each_source(inventory: Artifact, tmp_path: Path) -> None:
    workshop, sources = with_sources(inventory, tmp_path)
    records = [row for row in table(sources, "records/").to_pylist() if row["has_image"]]
    taken: dict[int, set[str]] = {}
    for quota in (3, 8):
        artifact = make(workshop, sources, size=None, quotas={"a": quota, "b": 1000})
        found = set(table(artifact, "queries/").column("sample_id").to_pylist())
        order = {
            source: sorted(
                (row["sample_id"] for row in records if row["source"] == source),
                key=lambda name: order_key("subset", 0, name),
            )
            for source in "abc"
        }
        assert found == {*order["a"][:quota], *order["b"]}
        taken[quota] = found
        counts, statistics = artifact.manifest.counts, artifact.manifest.statistics
        assert (counts.rows_in, counts.rows_out, counts.not_selected) == (60, len(found), 60 - len(found))
        assert statistics["requested"] == quota + 1000
        assert statistics["fewer_than_requested"] is True
        assert statistics["without_quota"] == len(order["c"])
        assert statistics["by_source"] == {
            "a": {"requested": quota, "available": len(order["a"]), "chosen": quota},
            "b": {"requested": 1000, "available": len(order["b"]), "chosen": len(order["b"])},
        }
    assert taken[3] < taken[8]


def test_a_quota_of_an_unknown_source_is_an_error(inventory: Artifact, tmp_path: Path) -> None:
    workshop, sources = with_sources(inventory, tmp_path)
    with pytest.raises(ConfigError, match=r"no record is of the source 'coco'; the sources are 'a', 'b', 'c'; correct"):
        make(workshop, sources, size=None, quotas={"a": 1, "coco": 2})
