"""The proof sees every fault that is put into the code, and raises no alarm without one."""

import dataclasses
from collections.abc import Sequence

import pytest

from model.errors import DataError
from pipeline.packing.chat import TextFormat
from pipeline.training.alignment.choice import Chosen, _most_telling
from pipeline.training.alignment.proof import ROWS, Proof, prove
from pipeline.training.alignment.show import proof_text
from pipeline.training.alignment.truth import Truth
from pipeline.training.alignment.words import Words
from pipeline.training.data.batches import Collator
from pipeline.training.data.pack_reader import PackRow
from tests.pipeline.training.alignment.fixtures_aligned_rows import PAD, World, make_world
from tests.pipeline.training.alignment.fixtures_faults import FAULTS

SEEDS = 3


def proof_of(world: World, words: Words, *, with_faults: bool = False) -> Proof:
    """The world's rows through the collator, with two rows beside them that have no mask, one of them no picture."""
    text = dataclasses.replace(world.rows[0][0], sample_id="text", image=None)
    plain = dataclasses.replace(world.rows[1][0], sample_id="plain")
    chosen = Chosen(world.rows, [text, plain], len(world.rows))
    return prove("stage3", chosen, Collator(world.processor, PAD, world), words, world.square, with_faults=with_faults)


def telling_world(forms: Sequence[TextFormat], seed: int, rows: int) -> World:
    """The most telling of four times as many rows, as a stage chooses them."""
    world = make_world(forms[:1], seed, 4 * rows)
    world.rows = _most_telling(world.rows, world.square, rows)
    return world


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_is_caught(fault: str, forms: list[TextFormat], words: Words) -> None:
    for seed in range(SEEDS):
        world = telling_world(forms, seed, ROWS // 2)
        with pytest.MonkeyPatch.context() as patch:
            FAULTS[fault](patch, world)
            proof = proof_of(world, words)
        assert proof.problems, f"seed {seed}"
        with pytest.raises(DataError, match="stage3: the guidance is not aligned"):
            proof.check()


@pytest.mark.parametrize(("letterbox", "rule"), [("mean", "any"), ("zero", "half"), ("squash", "nearest")])
def test_no_alarm_without_a_fault(letterbox: str, rule: str, forms: list[TextFormat], words: Words) -> None:
    proof = proof_of(make_world(forms, 1, 250, letterbox, rule), words)
    assert proof.problems == []
    proof.check()


@pytest.mark.system
def test_no_alarm_on_ten_thousand_rows_and_no_fault_missed(forms: list[TextFormat], words: Words) -> None:
    assert proof_of(make_world(forms, 2, 10_000), words).problems == []
    missed = []
    for fault, inject in FAULTS.items():
        for seed in range(5):
            world = telling_world(forms, 100 + seed, ROWS)
            with pytest.MonkeyPatch.context() as patch:
                inject(patch, world)
                if not proof_of(world, words).problems:
                    missed.append((fault, seed))
    assert missed == []


def test_the_proof_says_which_faults_its_rows_would_show(forms: list[TextFormat], words: Words) -> None:
    """Square pictures in one turn without EXIF cannot show faults of the letterbox, of EXIF or of turns."""
    telling = proof_of(telling_world(forms, 5, ROWS), words, with_faults=True)
    assert min(telling.visible.values()) > 0
    world = make_world(forms, 5, 400)
    world.rows = [
        (row, facts) for row, facts in world.rows if facts[0].height == facts[0].width and len(row.spans) == 1
    ]
    dull = proof_of(world, words, with_faults=True)
    assert len(world.rows) > 5
    unseen = {name for name, count in dull.visible.items() if not count}
    assert {"tokens of another turn", "mask stretched", "picture stretched", "picture cropped"} <= unseen
    assert "faults that none of these rows can show: tokens of another turn, " in proof_text(dull, words)


def test_an_error_names_the_row_and_shows_the_evidence(
    forms: list[TextFormat], words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(forms[:1], 4, 9, wild=False)
    FAULTS["tokens shifted by one to the right"](monkeypatch, world)
    proof = proof_of(world, words)
    fact = world.rows[0][1][0]
    with pytest.raises(DataError) as error:
        proof.check()
    said = str(error.value)
    assert "9 of 9 guided rows are wrong" in said
    assert f"row s000000: turn {fact.turn} ({fact.query_kind}): the guided tokens say " in said
    assert repr(fact.query)[1:5] in said
    assert "and 6 more problems" in said
    assert proof_text(proof, words).startswith("alignment of stage3: 9 rows are wrong")


def test_a_row_that_is_guided_without_a_mask_is_a_fault(forms: list[TextFormat], words: Words) -> None:
    world = make_world(forms[:1], 6, 8, wild=False)
    world.table["plain"] = world.table["s000001"]
    assert proof_of(world, words).problems == ["row plain: it is guided, though it has no accepted mask"]


def test_a_row_that_is_not_guided_though_it_has_a_mask_is_a_fault(forms: list[TextFormat], words: Words) -> None:
    world = make_world(forms[:1], 6, 8, wild=False)
    del world.table["s000003"]
    (problem,) = proof_of(world, words).problems
    assert problem.startswith("row s000003: it is not guided, though turn ")


def test_what_is_printed(forms: list[TextFormat], words: Words) -> None:
    """The guided words are marked in their conversation; the cells are a small picture."""
    world = make_world(forms[:1], 8, 3, wild=False)
    text = proof_text(proof_of(world, words), words)
    rows: list[PackRow] = [row for row, _ in world.rows]
    flat = " ".join(text.split())
    for row, facts in zip(rows, (facts for _, facts in world.rows), strict=True):
        assert row.sample_id in text
        assert f"picture {facts[0].width} x {facts[0].height}, mask {facts[0].area:,} pixels" in flat
    pieces = sum(2 if facts[0].query_kind == "question_and_answer" else 1 for _, facts in world.rows)
    assert text.count("[[") == text.count("]]") == pieces
    assert "##" in text
    assert all(len(line) <= 120 for line in text.splitlines()[5:])


def test_teachers_that_find_other_objects_are_no_fault_of_the_alignment() -> None:
    """As the miniature teachers do on photographs: masks and colours fit the truth nowhere."""
    turned, moved = {"mirrored": 0.04, "upside down": 0.07}, {"mirrored": 0.06, "moved by half a cell up": 0.05}
    assert Truth(12, 0.05, 0.04, turned, moved).problems == []
    (problem,) = Truth(12, 0.05, 0.04, turned | {"mirrored": 0.8}, moved).problems
    assert problem == "the masks fit the truth better if they are mirrored: IoU 0.80, not 0.05"
    (problem,) = Truth(12, 0.6, 0.3, turned, moved | {"mirrored": 0.4}).problems
    assert problem.startswith("the pictures fit the true masks better if those are mirrored")
