"""`python -m pipeline.student.check_alignment`: the proof of alignment of one or several guided stages.

The rows are those that the stage's workers would look at. Cells are built for these rows only, by the stage's own code.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pydantic import Field

from model.errors import AgevlmError, ConfigError
from model.stage_table import stage_row
from pipeline.artifacts.paths import scratch_folder, store_root
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.config import Config, validate
from pipeline.schemas import MASKS, MODEL, part_name
from pipeline.student.png_file import check_png, save_png
from pipeline.training.config import StageConfig

if TYPE_CHECKING:
    from pipeline.training.alignment.choice import Chosen
    from pipeline.training.alignment.proof import Proof
    from pipeline.training.alignment.words import Words


class CheckedStage(Config):
    """A guided stage that is looked at."""

    row: str
    config: StageConfig
    seed: int
    pack: ArtifactRef
    masks: ArtifactRef
    student: ArtifactRef | None = Field(description="a checkpoint with the student's processor")
    letterbox: str = Field(default="mean", description="used without a checkpoint, as are the two backbones")
    text: str | None = None
    vision: str | None = None


@dataclass(frozen=True)
class Checked:
    """The proof of a stage, and the reader of its tokens."""

    proof: "Proof"
    words: "Words"


def stage_of_checkpoint(checkpoint: Artifact) -> CheckedStage:
    """The stage that made a checkpoint. Raises ConfigError if it had no guidance loss."""
    if checkpoint.ref.kind != "checkpoint":
        raise ConfigError(f"{checkpoint.ref} is no checkpoint; 'agevlm artifacts --kind checkpoint' lists them")
    parents, params = checkpoint.manifest.parents, checkpoint.manifest.spec.params
    if "masks" not in parents:
        raise ConfigError(
            f"{checkpoint.ref}: its stage has no guidance loss, so there is nothing to check; give a checkpoint of "
            "stage3 or stage4_lm"
        )
    return CheckedStage(
        row=params["row"],
        config=StageConfig.model_validate(params["config"]),
        seed=params["seed"],
        pack=parents["pack"].ref,
        masks=parents["masks"].ref,
        student=checkpoint.ref,
    )


def check(store: ArtifactStore, stage: CheckedStage, rows: int) -> Checked:
    """The proof of a stage. Raises AgevlmError if its inputs cannot be used."""
    from pipeline.training.alignment.choice import choose
    from pipeline.training.alignment.evidence import truth_folder
    from pipeline.training.alignment.proof import prove, square_of
    from pipeline.training.alignment.words import Words
    from pipeline.training.data.batches import Collator
    from pipeline.training.data.index import PackIndex
    from pipeline.training.data.pack_files import PackFiles
    from pipeline.training.data.samples import open_samples

    cache = scratch_folder() / "cache"
    processor = _processor(store, stage, cache)
    words = Words(processor.tokenizer.backend_tokenizer)
    square = square_of(processor.image_processor, stage.config.mask_cells)
    index = PackIndex.read(PackFiles.of(store.require(stage.pack)))
    samples = open_samples(index, stage_row(stage.row), stage.config, stage.seed)
    masks = store.require(stage.masks)
    chosen = choose(samples, masks.local(cache, "part-"), truth_folder(masks, cache), square, rows)
    with tempfile.TemporaryDirectory(prefix="agevlm-cells-") as name:
        guide = _guide(chosen, processor, stage.config.mask_cells, Path(name))
        collate = Collator(processor.image_processor, processor.tokenizer.pad_token_id, guide)
        return Checked(prove(stage.row, chosen, collate, words, square), words)


def _guide(chosen: "Chosen", processor: Any, rule: str, folder: Path) -> Any:
    """The table of cells of the chosen rows, made as the stage makes its own."""
    from pipeline.masks.cell_builder import build_cells
    from pipeline.masks.cells import CellSettings

    masks = folder / "masks"
    masks.mkdir()
    facts = [fact for _, facts in chosen.guided for fact in facts]
    rows = [{**vars(fact), "status": "ok", "reason": ""} for fact in facts]
    table = pa.Table.from_pylist([{name: row.get(name) for name in MASKS.names} for row in rows], schema=MASKS)
    pq.write_table(table, masks / part_name(0, 1))
    geometry = processor.image_processor
    settings = CellSettings(geometry.image_size, geometry.stride, geometry.letterbox, rule)
    return build_cells(masks, folder / "cells", settings)


def _processor(store: ArtifactStore, stage: CheckedStage, cache: Path) -> Any:
    from transformers import AutoTokenizer

    from model.agevlm.backbones import read_vision_folder, vision_config
    from model.agevlm.processing_agevlm import AgeVlmProcessor
    from pipeline.compute.hub import local_folder

    if stage.student is not None:
        return AgeVlmProcessor.from_pretrained(store.require(stage.student).local(cache, f"{MODEL}/") / MODEL)
    if stage.text is None or stage.vision is None:
        raise ConfigError(f"{stage.row}: give a checkpoint with its processor, or both backbones")
    try:
        fields, _ = read_vision_folder(local_folder("vision", stage.vision))
        tokenizer = AutoTokenizer.from_pretrained(local_folder("text", stage.text))
        return AgeVlmProcessor.from_backbones(tokenizer, vision_config(fields), stage.letterbox)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the processor cannot be made from {stage.text} and {stage.vision}: {error}") from error


def as_json(proof: "Proof") -> dict[str, Any]:
    """The outcome as plain data: counts, problems, and each row's id, words and areas."""
    from pipeline.training.alignment.show import area_lines

    return {
        "stage": proof.stage,
        "rows": len(proof.rows),
        "looked_at": proof.looked_at,
        "problems": proof.problems,
        "visible": proof.visible,
        "truth": None if proof.truth is None else vars(proof.truth),
        "samples": [
            {
                "sample_id": row.sample_id,
                "turn": None if row.claim is None else row.claim.fact.turn,
                "words": [] if row.claim is None else list(row.claim.parts),
                "areas": area_lines(row),
                "problems": row.problems,
            }
            for row in proof.rows
        ],
    }


def main(
    checkpoint: Annotated[str | None, typer.Argument(help="the beginning of a checkpoint artifact's id")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="a stage as JSON, in place of a checkpoint")] = None,
    rows: Annotated[int, typer.Option(min=1, help="guided rows to look at")] = 24,
    draw: Annotated[int, typer.Option(min=0, help="rows to print")] = 3,
    json_only: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    save: Annotated[Path | None, typer.Option(metavar="OUT.png", help="write the rows as one picture")] = None,
    store: Annotated[str | None, typer.Option(help="artifact store: a path or URL (default: $AGEVLM_STORE)")] = None,
) -> None:
    """Check that guided words, masks and pictures belong together. Exit code 1 if they do not."""
    try:
        from rich.console import Console

        from pipeline.training.alignment.sheet import draw_sheet
        from pipeline.training.alignment.show import print_proof

        if save is not None:
            check_png("--save", "sheet", save)
        artifacts = ArtifactStore(store or store_root())
        stages = [validate(CheckedStage, json.loads(text), "--stage") for text in stage or []]
        if checkpoint is not None:
            stages.append(stage_of_checkpoint(artifacts.find(checkpoint, "checkpoint")))
        if not stages:
            raise ConfigError("give a checkpoint's id, or --stage")
        found = [check(artifacts, one, rows) for one in stages]
        if json_only:
            print(json.dumps([as_json(one.proof) for one in found], indent=1))
        for one in found if not json_only else []:
            print_proof(one.proof, one.words, Console(width=None if sys.stdout.isatty() else 118), draw)
        if save is not None:
            save_png("--save", draw_sheet([(one.proof, one.words) for one in found]), save)
            print(f"{sum(len(one.proof.rows) for one in found)} rows: {save}", file=sys.stderr)
        if any(one.proof.problems for one in found):
            raise typer.Exit(1)
    except AgevlmError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
