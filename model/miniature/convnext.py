"""The tiny vision encoder: a timm ConvNeXt trained from scratch to classify each cell of a letterboxed picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from model.errors import DataError
from model.miniature.training import (
    IMAGE_MEAN,
    IMAGE_STD,
    PIXEL_SIZE,
    Progress,
    build_bank,
    cell_labels,
    descend,
    learning_rate,
    set_learning_rate,
)
from model.miniature.world import COLOURS, SHAPES

ARCHITECTURE: Final = "convnext_atto"
WIDTH: Final = 96
STRIDE: Final = 16
MODEL_ARGS: Final[dict[str, Any]] = {
    "dims": [24, 48, 64, WIDTH],
    "depths": [1, 1, 2, 1],
    "output_stride": STRIDE,
    "ls_init_value": None,  # timm's 1e-6 makes every block an identity, and from scratch it stays one
}


@dataclass(frozen=True)
class ConvNextSettings:
    """Length and batch size of the training."""

    scenes: int = 4000
    steps: int = 500
    batch: int = 32
    peak: float = 2e-3
    seed: int = 0


def build_convnext() -> nn.Module:
    """A fresh encoder without a head: pixels (B, 3, 128, 128) -> `forward_features` -> (B, 96, 8, 8)."""
    trunk: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **MODEL_ARGS)
    trunk.head = nn.Identity()
    return trunk


def train_convnext(settings: ConvNextSettings) -> nn.Module:
    """Build and train the encoder on colour and shape of each cell. The heads are thrown away."""
    torch.manual_seed(settings.seed)
    trunk = build_convnext()
    colour, shape = nn.Conv2d(WIDTH, len(COLOURS) + 1, 1), nn.Conv2d(WIDTH, len(SHAPES) + 1, 1)
    params = [*trunk.parameters(), *colour.parameters(), *shape.parameters()]
    bank = build_bank(settings.scenes, settings.seed, "centre")
    colours, shapes = list(COLOURS), list(SHAPES)
    table = torch.zeros(len(bank.scenes), 4, 2, dtype=torch.long)
    for i, scene in enumerate(bank.scenes):
        for k, item in enumerate(scene.objects):
            table[i, k + 1] = torch.tensor([colours.index(item.colour) + 1, shapes.index(item.shape) + 1])
    optimizer = torch.optim.AdamW(params, lr=settings.peak, weight_decay=0.05)
    rng = np.random.default_rng([settings.seed, 30])
    progress = Progress("convnext", settings.steps)
    trunk.train()
    for step in range(settings.steps):
        set_learning_rate(optimizer, learning_rate(step, settings.steps, settings.peak, warmup=50))
        chosen = rng.integers(len(bank.scenes), size=settings.batch)
        features = trunk.forward_features(bank.pixels(chosen))  # type: ignore[operator]
        owner, _ = cell_labels(bank, chosen, PIXEL_SIZE // STRIDE)
        kind = table[torch.from_numpy(chosen)][torch.arange(len(chosen))[:, None, None], owner]
        of_colour = F.cross_entropy(colour(features), kind[..., 0])
        of_shape = F.cross_entropy(shape(features), kind[..., 1])
        descend(of_colour + of_shape, optimizer, params)
        progress.update(step, colour=float(of_colour.detach()), shape=float(of_shape.detach()))
    return trunk.eval()


def save_convnext(trunk: nn.Module, folder: Path) -> None:
    """Write config.json (what timm needs to build it, the pixels' statistics) and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": ARCHITECTURE,
        "model_args": MODEL_ARGS,
        "image_size": PIXEL_SIZE,
        "stride": STRIDE,
        "hidden_size": WIDTH,
        "mean": list(IMAGE_MEAN),
        "std": list(IMAGE_STD),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in trunk.state_dict().items()}, folder / "model.safetensors")


def load_convnext(folder: Path) -> nn.Module:
    """Open what `save_convnext` wrote, in evaluation mode. Raises DataError if a file is missing."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise DataError(f"{path} is missing; make it with `python -m model.miniature.train convnext`")
    said = json.loads(config.read_text())
    trunk: nn.Module = timm.create_model(said["architecture"], pretrained=False, num_classes=0, **said["model_args"])
    trunk.head = nn.Identity()
    trunk.load_state_dict(load_file(weights))
    return trunk.eval()
