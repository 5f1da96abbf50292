"""Applying the stage table: exactly the table's parameters train, and frozen ones stay bitwise the same."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from model.errors import ConfigError
from model.stage_table import PARTS, STAGES, stage_row, trains
from model.stages import apply_stage, describe_stages, parameter_groups, parts, prove_stage
from tests.model.agevlm.fixtures_tiny_models import guided_batch, tiny_model

# Table 1 of the paper, written down a second time: what trains in each part, and the two losses.
PAPER = {
    "stage1": ("frozen", "trained", "trained", "frozen", True, False),
    "stage2": ("last stage", "trained", "trained", "frozen", True, False),
    "stage3": ("last stage", "trained", "trained", "frozen", True, True),
    "stage4": ("trained", "trained", "trained", "trained", True, False),
    "stage4_lm": ("trained", "trained", "trained", "trained", True, True),
    "stage3_baseline": ("last stage", "trained", "trained", "frozen", True, False),
    "stage4_baseline": ("trained", "trained", "trained", "trained", True, False),
}


def test_the_table_is_the_papers() -> None:
    found = {n: (*trains(row).values(), row.lm_loss, row.guidance_loss) for n, row in STAGES.items()}
    assert found == PAPER


def test_the_table_imports_nothing_heavy() -> None:
    code = "import sys, model.stage_table; sys.exit(int(any(m in sys.modules for m in ('torch', 'transformers'))))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["layer", "in_block"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_frozen_stays_bitwise_and_trained_moves(stage: str, kind: str) -> None:
    model = tiny_model(cross_attention=kind).train()
    report = apply_stage(model, stage)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-2)
    row = STAGES[stage]
    for step in range(4):
        out = model(**guided_batch(seed=step))
        loss = out.lm_loss_sum / out.lm_tokens
        if row.guidance_loss:
            loss = loss + model.reduce_guidance(out.guidance_loss_sum, out.guided_rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = dict.fromkeys(PARTS, 0)
    names = parts(model)
    for name, parameter in model.named_parameters():
        changed = not torch.equal(before[name], parameter)
        assert changed == parameter.requires_grad, name
        moved[names[name]] += parameter.numel() if changed else 0
    assert moved == report.trainable


def test_counts_add_up_and_parts_are_whole() -> None:
    model = tiny_model()
    for report in describe_stages(model):
        assert report.trainable_parameters == sum(report.trainable.values())
        assert report.all_parameters == sum(p.numel() for p in model.parameters())
        for part, word in trains(report.stage).items():
            if word == "trained":
                assert report.trainable[part] == report.total[part] > 0
            elif word == "frozen":
                assert report.trainable[part] == 0
            else:
                assert 0 < report.trainable[part] < report.total[part]
    assert all(p.requires_grad for p in model.parameters())  # describing touches nothing


def test_the_last_block_alone_can_be_trained() -> None:
    model = tiny_model()
    row = replace(stage_row("stage2"), vision_encoder="last block")
    report = apply_stage(model, row)
    names = [n for n, p in model.named_parameters() if p.requires_grad and "vision" in n]
    assert names
    assert all(n.startswith("model.vision_tower.trunk.stages.3.blocks.1.") for n in names)
    assert 0 < report.trainable[PARTS[0]] < apply_stage(model, "stage2").trainable[PARTS[0]]


def test_a_set_that_is_not_the_tables_is_caught() -> None:
    model = tiny_model()
    apply_stage(model, "stage1")
    model.model.language_model.norm.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"language_model\.norm\.weight"):
        prove_stage(model, STAGES["stage1"])
    # A parameter shared between a trained and a frozen part cannot follow the table, whatever is set.
    shared = tiny_model()
    layers = shared.model.language_model.layers
    layers[1].input_layernorm.weight = layers[0].input_layernorm.weight
    with pytest.raises(ConfigError, match="shared"):
        apply_stage(shared, "stage1")


def test_unknown_stage_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'stage5'.*stage1, stage2"):
        apply_stage(tiny_model(), "stage5")


def test_norms_and_biases_do_not_decay() -> None:
    model = tiny_model()
    apply_stage(model, "stage4")
    decayed, plain = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    by_id = {id(p): name for name, p in model.named_parameters()}
    names = [by_id[id(p)] for p in plain["params"]]
    assert all(
        n.endswith(".bias") or "norm" in n or n.endswith("gamma") or "downsample.0" in n or "stem.1" in n for n in names
    )
    assert len(decayed["params"]) + len(plain["params"]) == len(by_id)
    apply_stage(model, "stage1")
    assert sum(p.numel() for g in parameter_groups(model, 0.1) for p in g["params"]) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
