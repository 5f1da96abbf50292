"""A small data set with planted flaws, as a folder tree or as archives, and the outcome of each record."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.sources.config import CambrianSource
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.sources.images.fixtures_archives import gzipped, tar_bytes, write_parts

PACKED = "mnt/disks/storage/data/pretrain_data/2.5m_v2"
"""The folder of the machine that packed one of Cambrian's own archives."""


def picture(number: int) -> bytes:
    """A different JPEG for each number."""
    return encoded(halves(24 + number, 16), "JPEG", quality=90)


FILES: dict[str, dict[str, bytes]] = {
    "coco": {f"coco/train/{n}.jpg": picture(n) for n in range(12)},
    "web": {
        "web/Star/A.JPG": picture(20),
        "web/caf\u00e9.jpg": picture(21),
        "web/page.jpg": b"<html>",
        "web/no.jpg": b"",
    },
    "allava": {f"{PACKED}/allava/{n}.jpg": picture(30 + n) for n in range(3)},
}
"""Archive -> its members."""


def chat(text: str, answer: str = "Two halves.") -> list[dict[str, str]]:
    """A conversation about an image."""
    return [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": answer}]


def record(image: Any, text: str = "What is it?", **more: Any) -> dict[str, Any]:
    """A record that names an image."""
    return {"id": f"{image}", "image": image, "conversations": chat(text), **more}


RECORDS: list[tuple[dict[str, Any] | str, str]] = [
    *((record(f"./coco/train/{n}.jpg"), "") for n in range(12)),
    (record("coco/train/3.jpg", "Again?"), ""),
    (record("web/star/a.jpg"), ""),
    (record("web/cafe\u0301.jpg"), ""),
    (record("allava/1.jpg"), ""),
    (record(["allava/2.jpg"]), ""),
    (record("sbu/train/5.jpg"), ""),
    ({"id": "talk", "conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}, ""),
    (record("coco/train/99.jpg"), "missing_image"),
    (record("web/page.jpg"), "not_an_image"),
    (record("web/no.jpg"), "zero_byte"),
    (record("../secret.jpg"), "path_escape"),
    (record("http://x/1.jpg"), "path_escape"),
    (record(["a.jpg", "b.jpg"]), "multi_image"),
    ({"id": "v", "video": "a.mp4", "conversations": chat("What?")}, "video"),
    ("{ not json", "malformed_json"),
    ({"id": "s", "image": "coco/train/1.jpg", "conversations": chat("What?", " ")}, "empty_text"),
    ({"id": "r", "image": "coco/train/1.jpg", "conversations": chat("What?")[::-1] * 2}, "bad_roles"),
    (record("./coco/train/0.jpg"), ""),
]
"""Each record with the reason why it is rejected; '' for a good one."""
REPAIRS = {"archive_prefix": 2, "case": 1, "dot_prefix": 13, "folder_alias": 1, "unicode": 1}
CHANGES = {"image_list": 1, "role_alias": 1}


def _tree(images: Path) -> None:
    for files in FILES.values():
        for name, content in files.items():
            path = images / name.removeprefix(f"{PACKED}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _tars(images: Path) -> None:
    for name, files in FILES.items():
        (images / f"{name}.tar").write_bytes(tar_bytes(files))


def _parts(images: Path) -> None:
    for name, files in FILES.items():
        write_parts(images, f"{name}.tar", tar_bytes(files), [700, 1300, 10])


def _gzipped(images: Path) -> None:
    for name, files in FILES.items():
        (images / f"{name}.tar.gz").write_bytes(gzipped(tar_bytes(files)))


def _mixed(images: Path) -> None:
    _tree(images)
    shutil.rmtree(images / "coco")
    shutil.rmtree(images / "allava")
    write_parts(images, "coco.tar.gz", gzipped(tar_bytes(FILES["coco"])), [500])
    (images / "allava.tar").write_bytes(tar_bytes(FILES["allava"]))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "tree": _tree,
    "tars": _tars,
    "parts": _parts,
    "gzipped": _gzipped,
    "mixed": _mixed,
}


def planted(folder: Path, layout: str) -> CambrianSource:
    """Write the data set."""
    images = folder / "images"
    images.mkdir(parents=True)
    (folder / "secret.jpg").write_bytes(picture(1))
    LAYOUTS[layout](images)
    lines = [line if isinstance(line, str) else json.dumps(line) for line, _ in RECORDS]
    (folder / "records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return CambrianSource(annotations=str(folder / "records.jsonl"), images=str(images), folder_aliases={"sbu": "coco"})
