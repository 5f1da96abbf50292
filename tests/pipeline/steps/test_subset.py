"""subset: a choice that depends on the seed and the ids only."""

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.steps.subset as subset
from model.errors import DataError
from pipeline.artifacts.store import Artifact
from pipeline.plan.parameters import SubsetParams
from pipeline.schemas import QUERIES
from pipeline.sources.conversation import turn_text
from pipeline.sources.records import Turn
from pipeline.steps.subset import choose, pick_turns, place
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


ids = st.lists(st.text(alphabet="0123456789abcdef", min_size=4, max_size=8), unique=True, max_size=40)


@settings(max_examples=80)
@given(ids, st.integers(0, 3), st.integers(1, 40), st.integers(1, 40), st.randoms())
def test_choices_are_nested_stable_and_of_the_right_size(
    names: list[str], seed: int, first: int, second: int, shuffler: random.Random
) -> None:
    small, large = sorted((first, second))
    few, more = choose(iter(names), small, seed), choose(iter(names), large, seed)
    assert few <= more <= choose(iter(names), None, seed) == {place(seed, name) for name in names}
    assert len(more) == min(large, len(names))
    shuffled = list(names)
    shuffler.shuffle(shuffled)
    assert choose(iter(shuffled), small, seed) == few
    without = names[1:]
    if small <= len(without):  # removing one record changes at most one choice
        assert len(choose(iter(without), small, seed) - few) <= 1


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
