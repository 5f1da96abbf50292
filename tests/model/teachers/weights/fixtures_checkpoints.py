"""Files of weights with the names and shapes of real checkpoints, which take hardly any disk."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.teachers.weights.header import ITEM_BYTES
from model.teachers.weights.sam_layout import OFFICIAL, Shapes, sam_tensors

TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
VIT_B = sam_tensors(OFFICIAL["vit_b"])


def light(shapes: Shapes, value: float = 0.0, dtype: str = "F32") -> dict[str, torch.Tensor]:
    """Tensors of these shapes that share one number each."""
    return {name: torch.full((1,), value, dtype=TORCH_TYPES[dtype]).expand(shape) for name, shape in shapes.items()}


def light_pth(path: Path, shapes: Shapes, value: float = 0.0, dtype: str = "F32") -> Path:
    """A .pth file as torch.save writes it."""
    torch.save(light(shapes, value, dtype), path)
    return path


def sparse_safetensors(path: Path, shapes: Shapes, dtype: str = "F32") -> Path:
    """A .safetensors file whose numbers are all zero and take no disk."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * ITEM_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(fields).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + end)
    return path


def shapes_of(names: Iterable[str]) -> Shapes:
    """A small shape for each name."""
    return dict.fromkeys(names, (2, 3))


def write_config(folder: Path, config: Mapping[str, Any], *others: str) -> Path:
    """Write config.json, and empty objects into the other files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in others:
        (folder / name).write_text("{}")
    return folder
