"""Training of the tiny Florence-2 from scratch: first its tower on dense labels, then all of it on texts and polygons.

The loss on location tokens gives no useful gradient until the text is bound to the right image tokens. So two auxiliary
heads help, which are dropped at the end: a dense one (object and box of each cell), and one on the encoder's image
tokens (is the token part of an object that the text is about).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from model.miniature.florence import (
    BINS,
    BOS,
    EOS,
    GRID,
    PAD,
    WIDTH,
    build_model,
    build_processor,
    start_positions,
)
from model.miniature.florence_curriculum import Curriculum, FlorenceSettings, Query
from model.miniature.training import (
    Progress,
    SceneBank,
    cell_labels,
    descend,
    learning_rate,
    set_learning_rate,
)
from model.miniature.world import COLOURS, SHAPES

TOWER_PEAK: Final = 2e-3  # learning rate, first phase
SIGMA: Final = 0.7  # bins; of a location's soft label at the end of the training
PRESENT_WEIGHT: Final = 1.0  # of the choice between a region and none, second phase
ABSENT_WEIGHT: Final = 1.5


class DenseHead(nn.Module):
    """Per cell: colour or none, shape or none, and the box (left, top, right, bottom) relative to the cell's centre."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(WIDTH, len(COLOURS) + 1, 1)
        self.shape = nn.Conv2d(WIDTH, len(SHAPES) + 1, 1)
        self.box = nn.Conv2d(WIDTH, 4, 1)

    def forward(
        self, features: torch.Tensor, owner: torch.Tensor, table: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of kind and box. features (B, C, g, g), owner (B, g, g), table (B, 4, 2), boxes (B, 4, 4) in 0..1."""
        batch = torch.arange(len(owner))[:, None, None]
        kind = table[batch, owner]
        loss = F.cross_entropy(self.colour(features), kind[..., 0]) + F.cross_entropy(
            self.shape(features), kind[..., 1]
        )
        centre = (torch.arange(GRID) + 0.5) / GRID
        here = torch.stack([centre[None, :].expand(GRID, GRID), centre[:, None].expand(GRID, GRID)], dim=-1)
        aim = (boxes[batch, owner] - torch.cat([here, here], dim=-1)) * GRID
        off = F.smooth_l1_loss(self.box(features).permute(0, 2, 3, 1), aim, reduction="none").mean(dim=-1)
        shown = (owner > 0).float()
        return loss, (off * shown).sum() / shown.sum().clamp(min=1)


class NameHead(nn.Module):
    """Per object: its colour and shape, from the mean of its cells' features."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Linear(WIDTH, len(COLOURS) + 1)
        self.shape = nn.Linear(WIDTH, len(SHAPES) + 1)

    def forward(
        self, features: torch.Tensor, shares: torch.Tensor, table: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, and share of right shapes. features (B, C, g, g), shares (B, k, g, g), table (B, k, 2); 0: none."""
        there = table[..., 0] > 0
        weights = shares / shares.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        objects = torch.einsum("bcyx,bkyx->bkc", features, weights)[there]
        colour, shape = table[there].unbind(dim=-1)
        guess = self.shape(objects)
        loss = F.cross_entropy(self.colour(objects), colour) + 2.0 * F.cross_entropy(guess, shape)
        return loss, (guess.argmax(dim=-1) == shape).float().mean()


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def location_loss(
    logits: torch.Tensor, labels: torch.Tensor, where: torch.Tensor, bin_ids: torch.Tensor, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy (n,) of each label, with a Gaussian of `sigma` bins around the true coordinate as soft label.

    logits (n, vocabulary), labels (n,), where (n,) in bins or -1. Returns the losses, and a mask of the locations.
    """
    logp = logits.log_softmax(dim=-1)
    place = where >= 0
    centres = torch.arange(BINS) + 0.5
    soft = torch.softmax(-0.5 * ((centres - where[:, None]) / sigma) ** 2, dim=-1)
    located = -(soft * logp[:, bin_ids]).sum(dim=-1)
    plain = -logp.gather(1, labels[:, None])[:, 0]
    return torch.where(place, located, plain), place


def train_tower(model: Florence2ForConditionalGeneration, head: DenseHead, world: Curriculum) -> float:
    """Train the vision tower on dense labels; returns the root mean square of its output afterwards."""
    settings = world.settings
    tower = model.model.vision_tower
    params = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(params, lr=TOWER_PEAK, weight_decay=0.01)
    rng = np.random.default_rng([settings.seed, 10])
    progress = Progress("florence tower", settings.tower_steps)
    rms = 1.0
    for step in range(settings.tower_steps):
        chosen = rng.integers(len(world.bank.scenes), size=settings.tower_batch)
        set_learning_rate(optimizer, learning_rate(step, settings.tower_steps, TOWER_PEAK))
        features = tower(world.bank.pixels(chosen)).last_hidden_state
        owner, table, boxes = world.dense(chosen)
        kind, box = head(features, owner, table, boxes)
        descend(kind + box, optimizer, params)
        rms = 0.9 * rms + 0.1 * float(features.detach().square().mean().sqrt())
        progress.update(step, kind=float(kind.detach()), box=float(box.detach()), rms=rms)
    return rms


@torch.no_grad()
def see(model: Florence2ForConditionalGeneration, bank: SceneBank) -> torch.Tensor:
    """The tower's map of every scene of a bank, float (N, WIDTH, GRID, GRID)."""
    parts = np.array_split(np.arange(len(bank.scenes)), max(1, len(bank.scenes) // 64))
    return torch.cat([model.model.vision_tower(bank.pixels(part)).last_hidden_state for part in parts])


def train_florence(
    settings: FlorenceSettings,
) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """Build and train the tiny Florence-2. The same settings and thread count give the same weights."""
    torch.manual_seed(settings.seed)
    processor = build_processor()
    model = build_model(processor)
    world = Curriculum(settings, processor)
    rms = train_tower(model, DenseHead(), world)
    start_positions(model, 0.7 * rms)
    features = see(model, world.bank)  # the tower is frozen now, so its output is computed once
    heat = nn.Linear(WIDTH, 1)
    tower = {id(p) for p in model.model.vision_tower.parameters()}
    params = [*(p for p in model.parameters() if id(p) not in tower), *heat.parameters()]
    optimizer = torch.optim.AdamW(params, lr=settings.peak, weight_decay=0.01, betas=(0.9, 0.98))
    rng = np.random.default_rng([settings.seed, 11])
    progress = Progress("florence", settings.steps)
    simple = np.array([i for i, s in enumerate(world.bank.scenes) if len(s.objects) < 3])
    model.train()
    for step in range(settings.steps):
        done = step / settings.steps
        set_learning_rate(optimizer, learning_rate(step, settings.steps, settings.peak))
        pool = simple if done < 0.15 else np.arange(len(world.bank.scenes))
        chosen = pool[rng.integers(len(pool), size=settings.batch)]
        drawn = [world.draw(rng, int(i), absent=0.1 + 0.5 * done) for i in chosen for _ in range(settings.queries)]
        sigma = SIGMA + 1.3 * max(0.0, 1 - 2 * done)
        figures = _step(model, heat, world, features[torch.from_numpy(chosen)], chosen, rng, drawn, sigma)
        descend(figures.pop("loss"), optimizer, params)
        progress.update(step, **{name: float(value.detach()) for name, value in figures.items()})
    return model.eval(), processor


def train_further(
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    settings: FlorenceSettings,
    keep: Callable[[], None] | None = None,
    every: int = 200,
) -> None:
    """Train a tiny Florence-2 in place, and leave it in evaluation mode: the second phase.

    Tower and language are trained together: what limits the answers about absent objects is the tower, which tells
    colours well and shapes badly. So the dense head's losses go on, and a head that names each whole object is added.
    The choice between a region and none has a loss of its own: it is one token of up to 74, and hardly counts in their
    mean.

    Args:
        keep: called every `every` steps, to save the model.
    """
    torch.manual_seed(settings.seed)
    world = Curriculum(settings, processor)
    tower = model.model.vision_tower
    dense, names, heat = DenseHead(), NameHead(), nn.Linear(WIDTH, 1)
    seeing = [*tower.parameters(), *dense.parameters(), *names.parameters()]
    known = {id(p) for p in seeing}
    speaking = [*(p for p in model.parameters() if id(p) not in known), *heat.parameters()]
    groups = [{"params": seeing, "scale": 2.0}, {"params": speaking, "scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.peak, weight_decay=0.01, betas=(0.9, 0.98))
    rng = np.random.default_rng([settings.seed, 12])
    progress = Progress("florence, second phase", settings.steps)
    model.train()
    for step in range(settings.steps):
        set_learning_rate(optimizer, learning_rate(step, settings.steps, settings.peak))
        chosen = rng.integers(len(world.bank.scenes), size=settings.batch)
        features = tower(world.bank.pixels(chosen)).last_hidden_state
        kind, box = dense(features, *world.dense(chosen))
        named, shape_right = names(features, *world.named(chosen))
        drawn = [world.draw_decided(rng, int(i)) for i in chosen for _ in range(settings.queries)]
        figures = _step(model, heat, world, features, chosen, rng, drawn, SIGMA)
        decided = PRESENT_WEIGHT * figures["present"] + ABSENT_WEIGHT * figures["absent"]
        descend(figures.pop("loss") + decided + 0.5 * (kind + box) + named, optimizer, [*seeing, *speaking])
        shown = figures | {"kind": kind, "named": named, "shape_right": shape_right}
        progress.update(step, **{name: float(value.detach()) for name, value in shown.items()})
        if keep is not None and step % every == every - 1:
            model.eval()
            keep()
            model.train()
    model.eval()


def _step(
    model: Florence2ForConditionalGeneration,
    heat: nn.Linear,
    world: Curriculum,
    features: torch.Tensor,
    chosen: npt.NDArray[np.int64],
    rng: np.random.Generator,
    drawn: list[Query],
    sigma: float,
) -> dict[str, torch.Tensor]:
    """The losses of one batch. drawn: the texts of the first picture, of the second, and so on."""
    count = world.settings.queries
    asked = [f"Locate {text} in the image with mask" for text, _ in drawn]
    text_ids = _padded(
        [[BOS, *ids, EOS] for ids in world.processor.tokenizer(asked, add_special_tokens=False)["input_ids"]],
        PAD,
    )
    answers = [world.answer(int(chosen[n // count]), targets) for n, (_, targets) in enumerate(drawn)]
    labels = _padded([ids for ids, _ in answers], PAD)
    where = torch.full(labels.shape, -1.0)
    for n, (_, places) in enumerate(answers):
        where[n, : len(places)] = torch.tensor(places)
    given = torch.cat([torch.full((len(labels), 1), EOS), labels[:, :-1]], dim=1)
    given = _blur(given, torch.cat([torch.full((len(labels), 1), -1.0), where[:, :-1]], dim=1), world.bin_ids, rng)

    # Every picture is asked several questions, but its features are projected once and then repeated.
    image = model.model.multi_modal_projector(features).repeat_interleave(count, dim=0)
    embedded = torch.cat([image, model.get_input_embeddings()(text_ids)], dim=1)
    seen = torch.cat([torch.ones(image.shape[:2], dtype=torch.long), (text_ids != PAD).long()], dim=1)
    out = model.model.language_model(
        inputs_embeds=embedded, attention_mask=seen, decoder_input_ids=given, use_cache=False
    )
    valid = labels != PAD
    logits = model.lm_head(out.last_hidden_state[valid])
    losses, place = location_loss(logits, labels[valid], where[valid], world.bin_ids, sigma)

    # A second loss teaches the encoder itself where the object is; location tokens alone teach that too slowly.
    _, shares = cell_labels(world.bank, chosen, GRID)
    wanted = torch.stack([shares[n // count, list(t)].sum(dim=0) for n, (_, t) in enumerate(drawn)]).flatten(1)
    warmth = heat(out.encoder_last_hidden_state[:, 1 : 1 + GRID * GRID])[..., 0]
    heating = F.binary_cross_entropy_with_logits(warmth, wanted.clamp(0, 1))
    first = losses.new_zeros(()) if not place.any() else losses[_firsts(where)[valid]].mean()
    located = losses[place].mean() if place.any() else losses.new_zeros(())
    marks = losses[~place].mean()
    loss = losses.mean() + 0.5 * first + 2.0 * heating
    decision = losses[_decisions(labels)[valid]]  # (rows,)
    silent = torch.tensor([not targets for _, targets in drawn])
    parts = {
        "loss": loss,
        "first": first,
        "place": located,
        "marks": marks,
        "heat": heating,
        "present": decision[~silent].sum() / len(drawn),
        "absent": decision[silent].sum() / len(drawn),
    }
    return parts


def _decisions(labels: torch.Tensor) -> torch.Tensor:
    """The token after the start of each row: a polygon's mark, or the end where the answer is no region."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    found[:, 1] = True
    return found


def _firsts(where: torch.Tensor) -> torch.Tensor:
    """The first two locations of every polygon, which only the picture determines."""
    place = where >= 0
    before = torch.cat([torch.zeros_like(place[:, :1]), place[:, :-1]], dim=1)
    start = place & ~before
    return start | torch.cat([torch.zeros_like(start[:, :1]), start[:, :-1]], dim=1)


def _blur(given: torch.Tensor, where: torch.Tensor, bin_ids: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Move 30 % of the decoder's input locations by a bin or two, so that it cannot just copy them."""
    shift = rng.integers(-2, 3, size=where.shape) * (rng.random(where.shape) < 0.3)
    moved = (where.floor().long() + torch.from_numpy(shift)).clamp(0, BINS - 1)
    return torch.where(where >= 0, bin_ids[moved], given)
