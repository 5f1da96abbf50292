"""What the artifacts of a checkpoint's lineage say of themselves, in words for its model card."""

from collections.abc import Mapping
from typing import Any

from model.history import Facts
from model.stage_table import STAGES, trains
from pipeline.artifacts.manifest import plural
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact


def row_of(checkpoint: Artifact) -> str:
    """The row of the stage table that was trained."""
    return str(checkpoint.manifest.spec.params.get("row", checkpoint.ref.name))


def source_of(inventory: Artifact) -> dict[str, Any]:
    """The identity of the raw data, as the recipe gave it."""
    return dict(inventory.manifest.spec.params.get("source", {}))


def stage_facts(checkpoint: Artifact) -> Facts:
    """How one stage was trained, and where it ended."""
    manifest = checkpoint.manifest
    params, said = manifest.spec.params, manifest.statistics
    config, final = params.get("config", {}), said.get("final", {})
    guided = bool(said.get("losses", {}).get("guidance"))
    return {
        "trained": _trained(row_of(checkpoint), said.get("trainable", {})),
        "data": _pinned(checkpoint, "pack"),
        "masks": _pinned(checkpoint, "masks"),
        "a mask's cells": number(config.get("mask_cells")) if guided else "-",
        "guided rows left out": counted(said.get("guidance_left_out") or {}) if guided else "-",
        "optimiser steps": number(said.get("steps")),
        "global batch": number(config.get("global_batch")),
        "samples seen": number(said.get("samples")),
        "distinct samples": number(said.get("distinct_samples")),
        "peak learning rate": number(config.get("learning_rate")),
        "warm-up, share of the steps": number(config.get("warmup_ratio")),
        "weight decay": number(config.get("weight_decay")),
        "AdamW betas": number([config.get("beta1"), config.get("beta2")]),
        "gradient clipped to norm": number(config.get("clip_norm")),
        "arithmetic": number(config.get("precision")),
        "seed": number(params.get("seed")),
        "final language loss": number(final.get("lm_loss")),
        "final guidance loss": number(final.get("guidance_loss")),
        "final attention in masks, per layer": number(final.get("attention_in_mask")),
        "final attention on padding, per layer": number(final.get("attention_on_padding")),
        "device": manifest.provenance.device,
        "seconds": number(round(manifest.provenance.seconds)),
    }


def data_facts(pack: Artifact, inventory: Artifact | None) -> Facts:
    """What a stage was trained on, from the raw data to the rows."""
    counts, said = pack.manifest.counts, pack.manifest.statistics
    settings = pack.manifest.spec.params.get("pack", {})
    raw: dict[str, str] = {}
    if inventory is not None:
        records, params = inventory.manifest.counts, inventory.manifest.spec.params
        raw = {
            "source": pairs(source_of(inventory)),
            "fingerprint of the raw data": f"`{params.get('fingerprint')}`",
            "limited to": number(params.get("limit")),
            "records": records.summary,
            "records left out": counted(records.rejected),
        }
    return {
        **raw,
        "rows for training": counts.summary,
        "rows left out": counted(counts.rejected),
        "tokens": number(said.get("tokens")),
        "of them to be predicted": number(said.get("target_tokens")),
        "longest row, tokens": number(settings.get("max_tokens")),
        "system turn": settings.get("system_prompt") or "none",
        "artifact": f"`{short(pack.ref.id)}`",
    }


def mask_facts(masks: Artifact, segments: Artifact | None, subset: Artifact | None) -> Facts:
    """Which texts the teachers were asked, how, and which of their masks were accepted."""
    counts = masks.manifest.counts
    facts: dict[str, str] = {}
    if subset is not None:
        chosen, params = subset.manifest.counts, subset.manifest.spec.params
        unit, size = plural(chosen.unit), number(params.get("size"))
        facts["subset"] = f"{chosen.rows_out:,} of {chosen.rows_in:,} {unit} (asked for: {size})"
        facts["texts"] = f"{number(params.get('query'))}, {number(params.get('turns'))} per record"
    facts["masks accepted"] = f"{counts.rows_out:,} of {counts.rows_in:,} {plural(counts.unit)}"
    facts["not accepted"] = counted(counts.rejected)
    facts["gates"] = pairs(masks.manifest.spec.params.get("gates", {}))
    if segments is not None:
        facts["teachers"] = pairs(segments.manifest.spec.params.get("teacher", {}))
    truth = masks.manifest.statistics.get("truth", {}).get("overall", {})
    if truth.get("mean_iou_present") is not None:
        texts = f"{truth['present']:,} texts about something in the picture, a missing mask counted as 0"
        facts["mean IoU with the truth"] = f"{truth['mean_iou_present']:.3f} over {texts}"
    return {**facts, "artifact": f"`{short(masks.ref.id)}`"}


def evaluation_facts(evaluation: Artifact, inventory: Artifact | None) -> Facts:
    """When and on what the weights were evaluated."""
    counts = evaluation.manifest.counts
    return {
        "made (UTC)": evaluation.manifest.provenance.started[:10],
        "data": "-" if inventory is None else pairs(source_of(inventory)),
        "questions": counts.summary,
        "left out": counted(counts.rejected),
        "settings": pairs(evaluation.manifest.spec.params.get("evaluation", {})),
    }


def artifact_facts(artifact: Artifact) -> Facts:
    """One line of the lineage."""
    manifest = artifact.manifest
    attempt = f", attempt {manifest.attempt}" if manifest.attempt else ""
    return {
        "artifact": f"{artifact.ref.kind}/{artifact.ref.name}",
        "id": f"`{artifact.ref.id}`",
        "step": f"{manifest.spec.step}, revision {manifest.spec.revision}{attempt}",
        "made (UTC)": manifest.provenance.started[:16].replace("T", " "),
        "rows": manifest.counts.summary,
    }


def _trained(row: str, parameters: Mapping[str, int]) -> str:
    """The parts of the model that had trainable parameters, and how much of a part if not all of it."""
    how = trains(STAGES[row]) if row in STAGES else {}
    words = {"trained": "", "frozen": ""}
    parts = {part: words.get(how.get(part, "trained"), f" ({how.get(part)})") for part, n in parameters.items() if n}
    return ", ".join(part + share for part, share in parts.items()) or "-"


def _pinned(artifact: Artifact, name: str) -> str:
    """Name and id of an input, '-' if there is none of that name; known even where the input itself is lost."""
    parent = artifact.manifest.parents.get(name)
    return "-" if parent is None else f"{parent.ref.name} `{short(parent.ref.id)}`"


def pairs(values: Mapping[str, Any]) -> str:
    """'min area: 0.01, max area: 0.9', without what is None."""
    return ", ".join(
        f"{name.replace('_', ' ')}: {number(value)}" for name, value in values.items() if value is not None
    )


def counted(reasons: Mapping[str, int]) -> str:
    """'3 no region, 1 min area', or 'none'."""
    return ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in reasons.items() if n) or "none"


def number(value: Any) -> str:
    """A value of a manifest for people, '-' for None."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(number, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
