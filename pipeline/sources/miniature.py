"""The miniature world as a raw data set: rendered on first use, in Cambrian's own layout, and read like any other.

A folder has `records.jsonl`, `truth.jsonl` (one line per record) and `images/`. It is named by the hash of its
settings and of the rendering code, so it is never stale; it is renamed into place, so it is never incomplete.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco

import model.miniature.language as language
import model.miniature.world as world
from pipeline.artifacts.atomic import new_folder
from pipeline.artifacts.spec import digest, short
from pipeline.artifacts.store import sha256_of
from pipeline.sources.cambrian import CambrianReader
from pipeline.sources.config import MiniatureSource, identity
from pipeline.sources.conversation import IMAGE_TOKEN

JPEG_QUALITY = 92
MAX_TURNS = 3  # turns of one record; a scene's questions are spread over as many records as they need


class Miniature(NamedTuple):
    """A rendered data set."""

    reader: CambrianReader
    images: Path


def open_miniature(source: MiniatureSource, scratch: Path) -> Miniature:
    """The data set of this source below `scratch`; it is rendered first if needed (800 scenes take seconds)."""
    folder = scratch / "miniature" / short(_content_hash(source))
    if not folder.is_dir():
        _render_folder(source, folder)
    return Miniature(CambrianReader(str(folder / "records.jsonl"), str(folder / "truth.jsonl")), folder / "images")


def _content_hash(source: MiniatureSource) -> str:
    hashes = {}
    for file in (world.__file__, language.__file__, __file__):
        with open(file, "rb") as stream:
            hashes[os.path.basename(file)] = sha256_of(stream)[0]
    return digest({"source": identity(source), "code": hashes})


def _render_folder(source: MiniatureSource, folder: Path) -> None:
    with new_folder(folder) as partial:
        (partial / "images").mkdir()
        with (
            open(partial / "records.jsonl", "w", encoding="ascii") as records,
            open(partial / "truth.jsonl", "w", encoding="ascii") as truths,
        ):
            for seed in range(source.seed, source.seed + source.scenes):
                for record, truth in _draw(seed, source.records == "captions", partial / "images"):
                    records.write(json.dumps(record) + "\n")
                    truths.write(json.dumps(truth) + "\n")


def _draw(seed: int, captions: bool, images: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Render one scene's image; yields its records, each with its truth."""
    scene = world.make_scene(seed)
    picture, masks = world.render(scene)
    name = f"{seed:09d}.jpg"
    Image.fromarray(picture).save(images / name, quality=JPEG_QUALITY, subsampling=0)
    for number, turns in enumerate(_caption_turns(scene) if captions else _question_turns(scene)):
        conversations = []
        for position, (question, answer, _) in enumerate(turns):
            asked = f"{IMAGE_TOKEN}\n{question}" if position == 0 else question
            conversations += [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        given = f"miniature_{seed}_{number}"
        record = {"id": given, "image": f"./{name}", "conversations": conversations}
        yield record, {"id": given, "turns": [_truth(masks, targets) for _, _, targets in turns]}


Turns = list[tuple[str, str, tuple[int, ...]]]  # question, answer, the objects that they are about


def _caption_turns(scene: world.Scene) -> list[Turns]:
    """One record: a caption of all objects or of a single one."""
    rng = np.random.default_rng([scene.seed, 20])
    said = language.caption(scene, int(rng.integers(4)))
    prompt = language.CAPTION_PROMPTS[int(rng.integers(len(language.CAPTION_PROMPTS)))]
    return [[(prompt, said.text, said.targets)]]


def _question_turns(scene: world.Scene) -> list[Turns]:
    """All questions of a scene, in records of one to MAX_TURNS turns."""
    rng = np.random.default_rng([scene.seed, 21])
    asked = [(q.question, q.answer, q.targets) for q in language.questions(scene)]
    records = []
    while asked:
        size = int(rng.integers(1, MAX_TURNS + 1))
        records.append(asked[:size])
        asked = asked[size:]
    return records


def _truth(masks: world.Masks, targets: tuple[int, ...]) -> dict[str, Any]:
    if not targets:
        return {"present": False, "height": 0, "width": 0, "rle": None}
    union = np.logical_or.reduce(masks[list(targets)], axis=0)
    height, width = union.shape
    rle = coco.encode(np.asfortranarray(union.astype(np.uint8)))["counts"].decode("ascii")
    return {"present": True, "height": height, "width": width, "rle": rle}
