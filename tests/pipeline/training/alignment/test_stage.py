"""The proof of a whole stage: pack and masks as files, rows chosen, cells built, through reader and collator."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from model.errors import DataError
from model.stage_table import STAGES
from pipeline.masks.cell_builder import build_cells
from pipeline.masks.cells import CellSettings, CellTable
from pipeline.packing.chat import TextFormat
from pipeline.student.png_file import check_png
from pipeline.training.alignment.choice import choose
from pipeline.training.alignment.proof import prove
from pipeline.training.alignment.sheet import draw_sheet
from pipeline.training.alignment.words import Words
from pipeline.training.config import StageConfig
from pipeline.training.data.batches import Collator
from pipeline.training.data.samples import Samples, open_samples
from tests.pipeline.training.alignment.fixtures_aligned_rows import PAD, World, make_world, write_masks, write_pack
from tests.pipeline.training.fixtures_tiny_training import local_index

CONFIG = StageConfig(global_batch=8, held_out=0)


@pytest.fixture(scope="module")
def stage(forms: list[TextFormat], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A pack of 64 rows, every second with a mask, and the table of cells of its masks."""
    folder = tmp_path_factory.mktemp("stage")
    world = make_world(forms, 11, 64, wild=True)
    write_pack(folder / "pack", [row for row, _ in world.rows])
    write_masks(folder / "masks", [facts[0] for _, facts in world.rows[::2]])
    square = world.square
    settings = CellSettings(square.side, square.stride, square.letterbox, square.rule)
    cells = build_cells(folder / "masks", folder / "cells", settings)
    return SimpleNamespace(folder=folder, world=world, cells=cells, samples=samples_of(folder / "pack"))


def samples_of(pack: Path) -> Samples:
    return open_samples(local_index(pack), STAGES["stage3"], CONFIG, seed=3)


def test_a_stage_with_right_inputs_is_all_right(stage: SimpleNamespace, words: Words, tmp_path: Path) -> None:
    world: World = stage.world
    cells: CellTable = stage.cells
    chosen = choose(stage.samples, stage.folder / "masks", None, world.square, 12)
    proof = prove("stage3", chosen, Collator(world.processor, PAD, cells), words, world.square)
    proof.check()
    assert (len(proof.rows), proof.looked_at, proof.truth) == (12, 64, None)
    even = {row.sample_id for row, _ in world.rows[::2]}
    assert {row.sample_id for row in proof.rows} <= even
    assert {row.sample_id for row in chosen.others}.isdisjoint(even)
    assert min(proof.visible.values()) > 0
    draw_sheet([(proof, words)]).save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_the_chosen_rows_show_more_than_the_first_ones(stage: SimpleNamespace, words: Words) -> None:
    world: World = stage.world
    collate = Collator(world.processor, PAD, stage.cells)
    chosen = choose(stage.samples, stage.folder / "masks", None, world.square, 6)
    first = choose(stage.samples, stage.folder / "masks", None, world.square, 24)
    first.guided[:] = sorted(first.guided, key=lambda item: item[0].sample_id)[:6]
    shown = [prove("stage3", rows, collate, words, world.square).visible for rows in (chosen, first)]
    kinds = [sum(count > 0 for count in visible.values()) for visible in shown]
    assert kinds[0] >= kinds[1]


def test_masks_of_other_samples_are_named(stage: SimpleNamespace, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for file in (stage.folder / "masks").glob("part-*.parquet"):
        table = pq.read_table(file)
        names = [f"other-{name}" for name in table["sample_id"].to_pylist()]
        pq.write_table(table.set_column(0, table.schema.field(0), [names]), masks / file.name)
    with pytest.raises(DataError, match="none of the 64 rows that are trained on has an accepted mask"):
        choose(stage.samples, masks, None, stage.world.square, 12)


def test_masks_that_are_joined_to_the_next_sample_are_caught(
    stage: SimpleNamespace, words: Words, tmp_path: Path
) -> None:
    """In the table of masks itself: each row has the sample id of the row after it."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for file in (stage.folder / "masks").glob("part-*.parquet"):
        table = pq.read_table(file)
        names = table["sample_id"].to_pylist()
        pq.write_table(table.set_column(0, table.schema.field(0), [names[1:] + names[:1]]), masks / file.name)
    world: World = stage.world
    cells = build_cells(masks, tmp_path / "cells", stage.cells.settings)
    chosen = choose(stage.samples, masks, None, world.square, 12)
    proof = prove("stage3", chosen, Collator(world.processor, PAD, cells), words, world.square)
    with pytest.raises(DataError, match="is about another picture"):
        proof.check()


def test_a_sheet_is_a_png(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"the sheet is a PNG; give a name that ends in \.png"):
        check_png("--save", "sheet", tmp_path / "sheet.html")
