"""The parts of the training programs; a training run is a pure function of its seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from model.miniature.convnext import ConvNextSettings, train_convnext
from model.miniature.florence import BINS, EOS, GRID, build_model, build_processor
from model.miniature.florence_curriculum import SECOND_PHASE as FLORENCE_SECOND_PHASE
from model.miniature.florence_curriculum import Curriculum, FlorenceSettings, scene_queries
from model.miniature.florence_training import _decisions, location_loss, train_florence, train_further
from model.miniature.llama import LlamaSettings, train_llama
from model.miniature.sam import SamSizes, build_sam
from model.miniature.sam_training import SamSettings, decode, train_sam
from model.miniature.train import main
from model.miniature.training import MOST_OBJECTS, build_bank, cell_labels, fit_longest_side, learning_rate
from model.miniature.world import make_scene, outline

SHORT_FLORENCE = FlorenceSettings(scenes=8, tower_steps=1, tower_batch=2, steps=2, batch=2, queries=2)


@pytest.fixture(scope="module")
def world() -> Curriculum:
    """A small curriculum with its processor."""
    return Curriculum(SHORT_FLORENCE, build_processor())


@pytest.mark.parametrize("geometry", ["squash", "corner", "centre"])
def test_bank_keeps_picture_and_labels_together(geometry: str) -> None:
    """Labels lie where the objects' colours lie, inside the frame; outside it is padding."""
    bank = build_bank(12, 0, geometry)
    again = build_bank(12, 0, geometry)
    assert np.array_equal(bank.images, again.images)
    for scene, image, label, frame in zip(bank.scenes, bank.images, bank.labels, bank.frames, strict=True):
        left, top, right, bottom = frame
        if geometry == "squash":
            assert (left, top, right, bottom) == (0, 0, 128, 128)
        else:
            assert (right - left, bottom - top) == fit_longest_side(scene.width, scene.height)
        outside = np.ones(label.shape, dtype=bool)
        outside[top:bottom, left:right] = False
        assert not label[outside].any()
        assert len(np.unique(image[outside])) <= 1
        assert set(np.unique(label)) == set(range(len(scene.objects) + 1))
        for k in range(len(scene.objects)):
            ys, xs = np.nonzero(label == k + 1)
            x, y = outline(scene.objects[k]).mean(axis=0)
            assert (xs.mean() + 0.5 - left) / (right - left) == pytest.approx(x / scene.width, abs=0.01)
            assert (ys.mean() + 0.5 - top) / (bottom - top) == pytest.approx(y / scene.height, abs=0.01)
    with pytest.raises(ValueError, match="sideways"):
        build_bank(1, 0, "sideways")


def test_cells_belong_to_the_object_that_fills_them() -> None:
    """Shares are areas; a cell's owner is the object with the largest share, if that is large enough."""
    bank = build_bank(4, 0, "squash")
    owner, shares = cell_labels(bank, np.arange(4), GRID)
    for n in range(4):
        for k in range(MOST_OBJECTS):
            whole = (bank.labels[n] == k + 1).mean()
            assert float(shares[n, k].mean()) == pytest.approx(whole, abs=1e-6)
    best, who = shares.max(dim=1)
    assert torch.equal(owner, torch.where(best >= 0.25, who + 1, 0))


def test_answers_are_polygons_in_the_order_of_the_text(world: Curriculum) -> None:
    """<s>, then <poly> x y ... </poly> for each target, then </s>; locations are the outline's, to half a bin."""
    tokenizer = world.processor.tokenizer
    index = next(i for i, scene in enumerate(world.bank.scenes) if len(scene.objects) > 1)
    scene = world.bank.scenes[index]
    ids, where = world.answer(index, (1, 0))
    text = tokenizer.decode(ids)
    assert text.startswith("<s><poly><loc_")
    assert text.endswith("</poly></s>")
    size = (scene.width, scene.height)
    parsed = world.processor.post_process_generation(text, task="<REFERRING_EXPRESSION_SEGMENTATION>", image_size=size)
    (instances,) = (answer["polygons"] for answer in parsed.values())
    for target, polygons in zip((1, 0), instances, strict=True):
        points = np.array(polygons[0]).reshape(-1, 2)
        assert np.abs(points - outline(scene.objects[target])).max() <= 0.5 * max(size) / BINS + 1.5
    assert len(where) == len(ids)
    assert world.answer(index, ()) == ([0, EOS], [-1.0, -1.0])


def test_location_loss_is_least_at_the_truth() -> None:
    """Soft labels: the right bin costs less than one off, that less than five off. Other tokens: cross-entropy."""
    ids = torch.arange(BINS) + 3
    logits = torch.full((3, BINS + 3), -5.0)
    for row, at in enumerate((20, 21, 25)):
        logits[row, ids[at]] = 5.0
    where = torch.full((3,), 20.5)
    losses, place = location_loss(logits, ids[torch.tensor([20, 20, 20])], where, ids, sigma=0.7)
    assert bool(place.all())
    assert losses[0] < losses[1] < losses[2]
    plain, place = location_loss(logits, torch.tensor([1, 1, 1]), torch.full((3,), -1.0), ids, sigma=0.7)
    assert not place.any()
    assert torch.allclose(plain, torch.nn.functional.cross_entropy(logits, torch.tensor([1, 1, 1]), reduction="none"))


def test_absent_texts_are_drawn_at_the_chance_given(world: Curriculum) -> None:
    """Chance 0 draws only texts about something; a text's targets are what the language says."""
    rng = np.random.default_rng(0)
    assert all(world.draw(rng, int(rng.integers(8)), absent=0.0)[1] for _ in range(100))
    assert not all(world.draw(rng, int(rng.integers(8)), absent=1.0)[1] for _ in range(100))
    captions, asked, answered = scene_queries(make_scene(5))
    assert all(targets for _, targets in captions)
    for (question, targets), (both, again) in zip(asked, answered, strict=True):
        assert both.startswith(question + " ")
        assert targets == again


def test_the_second_phase_asks_about_absent_and_small_objects() -> None:
    """A quarter of its texts are about something absent, most of them with a present colour; four objects fit."""
    second = replace(FLORENCE_SECOND_PHASE, scenes=40)
    world = Curriculum(second, build_processor())
    rng = np.random.default_rng(0)
    scenes = [int(i) for i in rng.integers(40, size=600)]
    drawn = [world.draw_decided(rng, i) for i in scenes]
    assert 0.20 < np.mean([not targets for _, targets in drawn]) < 0.31
    for scene, (text, targets) in zip(scenes, drawn, strict=True):
        objects = world.bank.scenes[scene].objects
        assert all(objects[target].colour in text or "object" in text or "?" in text for target in targets)
    counts = {len(scene.objects) for scene in world.bank.scenes}
    assert counts == {1, 2, 3, 4}
    crowd = next(i for i, scene in enumerate(world.bank.scenes) if len(scene.objects) == 4)
    assert sum(token == world.open for token in world.answer(crowd, (0, 1, 2, 3))[0]) == 4
    first = Curriculum(replace(SHORT_FLORENCE, scenes=2), world.processor)
    assert first.bank.scenes[0].seed != world.bank.scenes[0].seed
    owner, table, boxes = world.dense(np.array([crowd]))
    assert table.shape[1:] == (*boxes.shape[1:2], 2)
    assert owner.max() <= 4


def test_the_choice_between_region_and_none_is_the_token_after_the_start(world: Curriculum) -> None:
    """One place in every row."""
    rows = [world.answer(0, (0,))[0], world.answer(0, ())[0]]
    width = len(rows[0])
    labels = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    assert labels[_decisions(labels)].tolist() == [world.open, EOS]


def test_batched_decoder_equals_the_stock_one() -> None:
    """Prompts on two pictures at once give what segment-anything's decoder gives one picture at a time."""
    torch.manual_seed(0)
    sam = build_sam(SamSizes()).eval()
    boxes = torch.tensor([[10.0, 12, 60, 70], [30, 30, 90, 80], [5, 60, 40, 120]])
    image = torch.tensor([0, 1, 1])
    with torch.no_grad():
        embeddings = sam.image_encoder(torch.randn(2, 3, 128, 128))
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        masks, quality = decode(sam, embeddings, image, sparse, dense)
        for n in range(3):
            one_mask, one_quality = sam.mask_decoder.predict_masks(
                embeddings[image[n], None], sam.prompt_encoder.get_dense_pe(), sparse[n, None], dense[n, None]
            )
            assert torch.allclose(masks[n], one_mask[0], atol=1e-5)
            assert torch.allclose(quality[n], one_quality[0], atol=1e-5)


def test_learning_rate_rises_holds_and_falls() -> None:
    """Warm-up, plateau to the half, then down to almost nothing, never to zero."""
    rates = [learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99:500] == [1.0] * 401
    assert all(a >= b for a, b in pairwise(rates[500:]))
    assert rates[-1] == pytest.approx(0.02)


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "train",
    [
        lambda seed: train_florence(replace(SHORT_FLORENCE, seed=seed))[0],
        lambda seed: train_sam(SamSettings(scenes=4, steps=1, batch=2, seed=seed))[0],
        lambda seed: train_llama(LlamaSettings(scenes=4, steps=1, batch=2, seed=seed))[0],
        lambda seed: train_convnext(ConvNextSettings(scenes=4, steps=1, batch=2, seed=seed)),
    ],
    ids=["florence", "sam", "llama", "convnext"],
)
def test_the_same_seed_gives_the_same_weights(train: Callable[[int], torch.nn.Module]) -> None:
    """Two short trainings agree bit for bit; another seed differs."""
    first = train(0)
    assert _same(first, train(0))
    assert not _same(first, train(1))


def test_the_second_phase_is_a_pure_function_too(world: Curriculum) -> None:
    """From the same weights: the same weights. It saves on the way, and ends in evaluation mode."""
    short = replace(FLORENCE_SECOND_PHASE, scenes=8, steps=2, batch=2)
    trained = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_model(world.processor)
        saved: list[bool] = []
        train_further(model, world.processor, short, lambda seen=saved, model=model: seen.append(model.training), 1)
        assert not model.training
        assert saved == [False, False]
        trained.append(model)
    assert _same(*trained)


def test_training_moves_every_part_of_florence(world: Curriculum) -> None:
    """Tower, projector, encoder and decoder all get gradients in the joint phase."""
    torch.manual_seed(0)
    before = build_model(world.processor).state_dict()
    model, _ = train_florence(SHORT_FLORENCE)
    after = model.state_dict()
    for part in (
        "vision_tower.convs.0",
        "image_projection",
        "encoder.layers.0",
        "decoder.layers.1",
        "shared",
    ):
        names = [name for name in after if part in name]
        assert names, part
        assert any(not torch.equal(after[name], before[name]) for name in names), part


def test_command_refuses_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong seed or thread count is said in one line, without a traceback, with exit code 2."""
    assert main(["llama", "--out", str(tmp_path), "--seed", "-1"]) == 2
    assert "--seed is -1" in capsys.readouterr().err
    assert main(["llama", "--out", str(tmp_path), "--threads", "0"]) == 2
    assert "--threads is 0" in capsys.readouterr().err
    assert main(["florence", "--out", str(tmp_path), "--first-phase", str(tmp_path / "none")]) == 2
    assert "florence2 holds no model.safetensors" in capsys.readouterr().err
    assert main(["sam", "--out", str(tmp_path), "--first-phase", str(tmp_path / "none")]) == 2
    assert "config.json is missing" in capsys.readouterr().err
