"""Training of the tiny SAM from scratch on the pipeline's kinds of prompts: boxes, polygons' masks, points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from model.miniature.sam import SamSizes, build_sam
from model.miniature.training import (
    Progress,
    SceneBank,
    build_bank,
    descend,
    learning_rate,
    set_learning_rate,
)
from model.miniature.world import PLAIN, WIDE, SceneRules

PROMPTS: Final = ("box", "box and mask", "mask", "point")
PROMPT_SHARES: Final = (0.55, 0.2, 0.1, 0.15)
MASK_LOGIT: Final = 6.0  # a mask prompt is given as logits of plus or minus this


@dataclass(frozen=True)
class SamSettings:
    """Length and batch size of the training."""

    scenes: int = 3000
    steps: int = 1000
    batch: int = 10  # images a step; every object of each is a prompt
    peak: float = 1.5e-3
    seed: int = 0
    rules: tuple[SceneRules, ...] = (PLAIN,)
    skip: int = 0  # of the seed's scenes
    slack: float = 0.0  # pixels added to a box's sides before they are multiplied by its share of error


SECOND_PHASE: Final = SamSettings(scenes=4000, steps=700, peak=8e-4, rules=(PLAIN, WIDE), skip=1_000_000, slack=8.0)
"""Small objects and up to four of them. A box of 16 pixels is as wrong in pixels as a larger one, not in share."""


def decode(
    sam: Sam, embeddings: torch.Tensor, image: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks for prompts on several images at once, which the stock decoder's forward cannot take.

    embeddings (B, C, g, g); image (n,), the picture of each prompt; sparse (n, t, C); dense (n, C, g, g).
    Returns mask logits (n, 4, 4g, 4g) and predicted IoU (n, 4).
    """
    decoder = sam.mask_decoder
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    where = sam.prompt_encoder.get_dense_pe().expand(len(sparse), -1, -1, -1)
    hidden, source = decoder.transformer(embeddings[image] + dense, where, tokens)
    count = decoder.num_mask_tokens
    n, _, height, width = dense.shape
    up = decoder.output_upscaling(source.transpose(1, 2).reshape(n, -1, height, width))
    mixers = [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("nkc,nchw->nkhw", torch.stack(mixers, dim=1), up)
    quality: torch.Tensor = decoder.iou_prediction_head(hidden[:, 0])
    return masks[:, :count], quality


def _boxes(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes (n, 4) in pixels of non-empty masks, bool (n, S, S)."""
    across, down = masks.any(dim=1), masks.any(dim=2)
    size = masks.shape[-1]
    left, top = across.float().argmax(dim=1), down.float().argmax(dim=1)
    right = size - across.flip(1).float().argmax(dim=1)
    bottom = size - down.flip(1).float().argmax(dim=1)
    return torch.stack([left, top, right, bottom], dim=1).float()


def _prompt(
    kind: str, masks: torch.Tensor, grid: int, rng: np.random.Generator, slack: float
) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor | None, torch.Tensor | None]:
    """Points, boxes and mask inputs of one kind of prompt for masks, bool (n, S, S)."""
    size = masks.shape[-1]
    tight = _boxes(masks)
    extent = torch.cat([tight[:, 2:] - tight[:, :2]] * 2, dim=1) + slack
    spread = rng.uniform(0.02, 0.14, size=(len(masks), 1))
    shaken = tight + extent * torch.from_numpy(rng.normal(0, 1, size=(len(masks), 4)) * spread).float()
    shaken = shaken.clamp(0, size)
    boxes = shaken if "box" in kind else None
    points = None
    if kind == "point":
        picks = []
        for mask in masks.numpy():
            ys, xs = np.nonzero(mask)
            at = int(rng.integers(len(xs)))
            picks.append([[float(xs[at]), float(ys[at])]])
        points = (torch.tensor(picks), torch.ones(len(masks), 1, dtype=torch.long))
    logits = None
    if "mask" in kind:  # a polygon's mask is never exact: move and scale it a little
        theta = torch.zeros(len(masks), 2, 3)
        stretch = torch.from_numpy(rng.normal(1, 0.1, size=(len(masks), 2))).float()
        theta[:, 0, 0], theta[:, 1, 1] = stretch[:, 0], stretch[:, 1]
        centre = (tight[:, :2] + tight[:, 2:]) / size - 1
        moved = torch.from_numpy(rng.normal(0, 0.03, size=(len(masks), 2))).float()
        theta[:, :, 2] = centre * (1 - stretch) + moved
        field = F.affine_grid(theta, [len(masks), 1, 4 * grid, 4 * grid], align_corners=False)
        rough = F.grid_sample(masks[:, None].float(), field, align_corners=False)
        logits = torch.where(rough > 0.5, MASK_LOGIT, -MASK_LOGIT)
    return points, boxes, logits


def _batch(bank: SceneBank, chosen: npt.NDArray[np.int64], sam: Sam) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels (B, 3, S, S) from Sam.preprocess, masks bool (n, S, S) of all objects, the picture (n,) of each mask."""
    size = bank.images.shape[1]
    rows = []
    for i in chosen:
        _, _, right, bottom = bank.frames[i]
        picture = torch.from_numpy(bank.images[i, :bottom, :right]).permute(2, 0, 1).float()
        rows.append(sam.preprocess(picture))
    labels = torch.from_numpy(bank.labels[chosen])
    masks, image = [], []
    for n, i in enumerate(chosen):
        for k in range(len(bank.scenes[i].objects)):
            masks.append(labels[n] == k + 1)
            image.append(n)
    assert rows[0].shape[-1] == size
    return torch.stack(rows), torch.stack(masks), torch.tensor(image)


def mask_loss(logits: torch.Tensor, quality: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of the four masks of each prompt, and IoU of the first. logits (n, 4, h, w), target (n, h, w) in 0..1."""
    aim = target[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, aim, reduction="none").mean(dim=(2, 3))
    p = logits.sigmoid()
    dice = 1 - (2 * (p * aim).sum(dim=(2, 3)) + 1) / ((p + aim).sum(dim=(2, 3)) + 1)
    each = 5 * entropy + dice
    with torch.no_grad():
        hard, truth = logits > 0, aim > 0.5
        iou = (hard & truth).sum(dim=(2, 3)) / (hard | truth).sum(dim=(2, 3)).clamp(min=1)
    loss = each[:, 0].mean() + 0.5 * each[:, 1:].min(dim=1).values.mean() + 0.5 * F.mse_loss(quality, iou)
    return loss, iou[:, 0].mean()


def train_sam(settings: SamSettings, sizes: SamSizes | None = None) -> tuple[Sam, SamSizes]:
    """Build and train the tiny SAM. The same settings and thread count give the same weights."""
    sizes = sizes or SamSizes()
    torch.manual_seed(settings.seed)
    sam = build_sam(sizes)
    train_further(sam, sizes, settings)
    return sam, sizes


def train_further(sam: Sam, sizes: SamSizes, settings: SamSettings) -> None:
    """Train a SAM in place, and leave it in evaluation mode."""
    bank = build_bank(
        settings.scenes, settings.seed, "corner", sizes.image_size, rules=settings.rules, skip=settings.skip
    )
    grid = sizes.image_size // sizes.patch_size
    params = list(sam.parameters())
    optimizer = torch.optim.AdamW(params, lr=settings.peak, weight_decay=0.01)
    rng = np.random.default_rng([settings.seed, 20])
    progress = Progress("sam", settings.steps)
    sam.train()
    for step in range(settings.steps):
        set_learning_rate(optimizer, learning_rate(step, settings.steps, settings.peak))
        chosen = rng.integers(len(bank.scenes), size=settings.batch)
        pixels, masks, image = _batch(bank, chosen, sam)
        kind = str(rng.choice(PROMPTS, p=PROMPT_SHARES))
        points, boxes, given = _prompt(kind, masks, grid, rng, settings.slack)
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=given)
        logits, quality = decode(sam, sam.image_encoder(pixels), image, sparse, dense)
        target = F.adaptive_avg_pool2d(masks.float(), 4 * grid)
        loss, iou = mask_loss(logits, quality, target)
        descend(loss, optimizer, params)
        progress.update(step, loss=float(loss.detach()), iou=float(iou))
    sam.eval()
