"""A tiny pack, tiny random backbones and exact masks from the miniature world, for tests of training and evaluation."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from model.agevlm.letterbox import fit, mask_to_cells
from model.miniature.convnext import build_convnext, save_convnext
from model.miniature.language import questions
from model.miniature.llama import build_model, build_tokenizer
from model.miniature.world import make_scene, render
from model.teachers import rle
from pipeline.masks.cells import Entry
from pipeline.schemas import PACK, part_name
from pipeline.training.config import StudentConfig
from pipeline.training.data.index import PackIndex
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.student import join_backbones

SIDE, STRIDE = 64, 16


def make_backbones(folder: Path) -> dict[str, str]:
    """A random language model and encoder (64 px, 4 x 4 cells), saved in the layout of a recipe's weights."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text, vision = folder / "text", folder / "vision"
    build_model(tokenizer).save_pretrained(text)
    tokenizer.save_pretrained(text)
    save_convnext(build_convnext(), vision)
    config = json.loads((vision / "config.json").read_text())
    (vision / "config.json").write_text(json.dumps({**config, "image_size": SIDE}))
    return {"text": str(text), "vision": str(vision)}


def jpeg(picture: Any) -> bytes:
    """A picture as a JPEG file's bytes."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, format="JPEG", quality=90)
    return sink.getvalue()


class ExactGuide:
    """Masks by sample id, with the `lookup` of a CellTable."""

    def __init__(self) -> None:
        self.table: dict[str, list[Entry]] = {}
        self.masks: dict[str, dict[str, Any]] = {}
        """The columns of MASKS that say what a mask is of, by sample id."""

    def lookup(self, sample_id: str) -> list[Entry]:
        return self.table.get(sample_id, [])


def make_pack(
    folder: Path, processor: Any, rows: int, *, shard_rows: int = 10, text_only: int = 0, guided_every: int = 3
) -> ExactGuide:
    """Write a pack with one question per scene. Every `text_only`-th row has no image; some rows have an exact mask."""
    guide, table = ExactGuide(), []
    for index in range(rows):
        scene = make_scene(index)
        picture, masks = render(scene)
        asked = questions(scene)[0]
        encoded = processor.encode_chat(
            [{"role": "user", "content": asked.question}, {"role": "assistant", "content": asked.answer}]
        )
        (qs, qe), (as_, ae) = encoded.message_spans
        has_image = not (text_only and index % text_only == 0)
        sample_id = f"s{index:03d}"
        table.append(
            {
                "sample_id": sample_id,
                "image": (image := jpeg(picture) if has_image else None),
                "image_bytes": len(image or b""),
                "image_sha256": None if image is None else hashlib.sha256(image).hexdigest(),
                "length": len(encoded.input_ids),
                "input_ids": encoded.input_ids,
                "target": encoded.targets,
                "token_starts": [a for a, _ in encoded.offsets],
                "token_ends": [b for _, b in encoded.offsets],
                "turns": [{"turn": 0, "question_start": qs, "question_end": qe, "answer_start": as_, "answer_end": ae}],
            }
        )
        if asked.targets and index % guided_every == 0:
            mask = np.any(masks[list(asked.targets)], axis=0)
            cells = mask_to_cells(mask, fit(scene.height, scene.width, SIDE, STRIDE))
            guide.table[sample_id] = [Entry(0, "question", 0, len(asked.question), cells)]
            guide.masks[sample_id] = {
                "sample_id": sample_id,
                "turn": 0,
                "query_kind": "question",
                "char_start": 0,
                "char_end": len(asked.question),
                "image_sha256": hashlib.sha256(image or b"").hexdigest(),
                "height": scene.height,
                "width": scene.width,
                "query": asked.question,
                "rle": rle.encode(mask),
                "area": int(mask.sum()),
            }
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-rows // shard_rows)
    for shard in range(count):
        part = pa.Table.from_pylist(table[shard * shard_rows : (shard + 1) * shard_rows], schema=PACK)
        pq.write_table(part, folder / part_name(shard, count), row_group_size=4, write_page_checksum=True)
    return guide


def make_world(folder: Path, backbones: dict[str, str], student: StudentConfig, rows: int) -> dict[str, Any]:
    """A pack of so many rows with text-only and guided ones, its masks, and the backbones."""
    _, processor = join_backbones(student, backbones["text"], backbones["vision"], 0)
    guide = make_pack(folder, processor, rows, text_only=5, guided_every=2)
    return {"pack": folder, "guide": guide, **backbones}


def local_index(folder: Path) -> PackIndex:
    """The index of the shards in a local folder."""
    return PackIndex.read(PackFiles.local(folder))
