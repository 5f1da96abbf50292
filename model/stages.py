"""Apply a row of the stage table to a model, and check that exactly the row's parameters train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.errors import ConfigError
from model.stage_table import PARTS, STAGES, StageRow, stage_row


@dataclass(frozen=True)
class StageReport:
    """Parameter counts of a stage. `total` and `trainable`: of every part (keys: `stage_table.PARTS`)."""

    stage: StageRow
    total: dict[str, int]
    trainable: dict[str, int]

    @property
    def trainable_parameters(self) -> int:
        """Number of trainable parameters in all."""
        return sum(self.trainable.values())

    @property
    def all_parameters(self) -> int:
        """Number of parameters in all, each counted once (a tied head is its embedding)."""
        return sum(self.total.values())


def part_of(name: str) -> str:
    """The table's part that a parameter belongs to, by its name in AgeVlmForConditionalGeneration.

    Everything that is not vision encoder, adapter or cross-attention came with Llama. A cross-attention layer of the
    expanded stack belongs to cross-attention with its norms and MLP; its name does not show that, so `parts` adds it.
    """
    if name.startswith("model.vision_tower."):
        return PARTS[0]
    if name.startswith("model.adapter."):
        return PARTS[1]
    if ".cross_attn." in name or ".cross_attention_layernorm." in name:
        return PARTS[2]
    return PARTS[3]


def parts(model: AgeVlmForConditionalGeneration) -> dict[str, str]:
    """Every parameter's name -> its part of the table; a shared parameter appears under each of its names."""
    own_layers: tuple[str, ...] = ()
    if model.config.cross_attention == "layer":
        own_layers = tuple(f"model.language_model.layers.{i}." for i in model.config.cross_attention_layers)
    return {
        name: PARTS[2] if name.startswith(own_layers) and own_layers else part_of(name)
        for name, _ in model.named_parameters(remove_duplicate=False)
    }


def wanted(model: AgeVlmForConditionalGeneration, row: StageRow) -> set[str]:
    """Names of the parameters that the row says are trained."""
    last_stage = "model.vision_tower.trunk.stages.3."
    last_block = f"{last_stage}blocks.{len(model.model.vision_tower.trunk.stages[3].blocks) - 1}."
    prefix = {"frozen": None, "last stage": last_stage, "last block": last_block, "whole": ""}[row.vision_encoder]
    flags = {PARTS[1]: row.adapter, PARTS[2]: row.cross_attention, PARTS[3]: row.language_model}
    return {
        name
        for name, part in parts(model).items()
        if (prefix is not None and name.startswith(prefix) if part == PARTS[0] else flags[part])
    }


def apply_stage(model: AgeVlmForConditionalGeneration, stage: str | StageRow) -> StageReport:
    """Set `requires_grad` of every parameter as the stage's row says, and check the result against the row.

    `stage` may be another row than the table's, such as `replace(STAGES["stage2"], vision_encoder="last block")`.

    Raises: ConfigError for an unknown stage, or if the trainable set is not the row's (shared parameters between a
    trained and a frozen part make that impossible).
    """
    if isinstance(stage, str):
        try:
            row = stage_row(stage)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    else:
        row = stage
    trained = wanted(model, row)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name in trained)
    report = describe_stage(model, row)
    prove_stage(model, row)
    return report


def prove_stage(model: AgeVlmForConditionalGeneration, row: StageRow) -> None:
    """Raise ConfigError unless exactly the row's parameters require a gradient, under every name they have."""
    found = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    wrong = sorted(found ^ wanted(model, row))
    if wrong:
        raise ConfigError(
            f"stage {row.name}: {len(wrong)} parameters do not follow the stage table, the first is {wrong[0]}; "
            "a parameter may not be shared between a trained and a frozen part"
        )


def describe_stage(model: AgeVlmForConditionalGeneration, row: StageRow) -> StageReport:
    """Count parameters per part, in all and trained by the row; the model may be on the meta device."""
    trained = wanted(model, row)
    total, trainable = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    names = parts(model)
    for name, parameter in model.named_parameters():
        total[names[name]] += parameter.numel()
        trainable[names[name]] += parameter.numel() if name in trained else 0
    return StageReport(row, total, trainable)


def describe_stages(model: AgeVlmForConditionalGeneration) -> list[StageReport]:
    """One report per row of the table, without touching the model."""
    return [describe_stage(model, row) for row in STAGES.values()]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for an optimizer, in a fixed order: decayed matrices, then norms, biases and scales without.

    Anything with fewer than two dimensions is a norm, a bias or a layer scale; decay would pull it to zero.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in _trainable(model):
        (decayed if parameter.dim() >= 2 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _trainable(model: nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
