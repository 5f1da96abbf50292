"""The amount of data of each step: from the manifests that exist, else from the recipe, the user, or an assumption."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.artifacts.store import Artifact
from pipeline.plan.recipe import Recipe
from pipeline.sources.config import MiniatureSource

ASSUMED_TOKENS = 256
"""Text tokens of a row where no pack tells, and the share of them that are targets. Both are assumptions."""
ASSUMED_TARGETS = 0.5
ASSUMED_IMAGE = 150_000
"""Bytes of an image file where no pack tells: an assumption."""


@dataclass(frozen=True)
class Amount:
    """The rows of one data set as training sees them; None is unknown. `how`: the place that they are from."""

    records: int | None
    images: int | None
    tokens: float
    targets: float
    """Mean text tokens of a row, and target tokens among them."""
    bytes: int | None
    """Size of its pack."""
    how: str
    assumed: str = ""
    """The figures that are assumptions, and the options that replace them; '' if there are none."""


@dataclass(frozen=True)
class Given:
    """Amounts that the user gave: data set -> records, and mean tokens of a row."""

    samples: Mapping[str, int]
    tokens: Mapping[str, float]


def amounts(recipe: Recipe, artifacts: Mapping[str, Artifact], given: Given) -> dict[str, Amount]:
    """Data set -> its amount. artifacts: those of the plan that exist, by key."""
    return {name: _amount(recipe, name, artifacts, given) for name in ("pretrain", "instruct", "evaluation")}


def _amount(recipe: Recipe, name: str, artifacts: Mapping[str, Artifact], given: Given) -> Amount:
    pack, inventory = artifacts.get(f"pack-{name}"), artifacts.get(f"inventory-{name}")
    if pack is not None and pack.manifest.counts.rows_out:
        found = _of_pack(pack)
    else:
        records, how = _records(recipe, name, inventory, given)
        tokens = min(given.tokens.get(name, ASSUMED_TOKENS), recipe.pack.max_tokens)
        assumed = [] if name in given.tokens else [f"{ASSUMED_TOKENS} tokens a row (--tokens {name}=N)"]
        assumed += [
            f"{ASSUMED_TARGETS:.0%} of them targets",
            "an image in every row",
            f"{ASSUMED_IMAGE:,} bytes an image",
        ]
        size = None if records is None else int(records * (ASSUMED_IMAGE + 8 * tokens))
        found = Amount(records, records, tokens, tokens * ASSUMED_TARGETS, size, how, ", ".join(assumed))
    if name in given.samples and found.records != given.samples[name]:
        rows = given.samples[name]
        share = rows / found.records if found.records else 1.0
        scaled = None if found.bytes is None else int(found.bytes * share)
        images = None if found.images is None else round(found.images * share)
        found = replace(found, records=rows, images=images, bytes=scaled, how=f"{rows:,} records as --samples says")
    return found


def _of_pack(pack: Artifact) -> Amount:
    facts: dict[str, Any] = pack.manifest.statistics
    rows = pack.manifest.counts.rows_out
    images, tokens, targets = (int(facts.get(key, 0)) for key in ("with_image", "tokens", "target_tokens"))
    how = f"{pack.ref}: {rows:,} rows, {images:,} with an image, {tokens:,} tokens, {targets:,} of them targets"
    return Amount(rows, images, tokens / rows, targets / rows, pack.manifest.bytes, how)


def _records(recipe: Recipe, name: str, inventory: Artifact | None, given: Given) -> tuple[int | None, str]:
    """Records of a data set before its pack exists, and the place that the number is from."""
    dataset = getattr(recipe.data, name)
    if name in given.samples:
        return given.samples[name], f"{given.samples[name]:,} records as --samples says"
    if inventory is not None:
        rows = inventory.manifest.counts.rows_out
        return rows, f"{inventory.ref}: {rows:,} records"
    if isinstance(dataset.source, MiniatureSource):
        rows = min(dataset.source.scenes, dataset.limit or dataset.source.scenes)
        return rows, f"the recipe's source: {rows:,} scenes, at least one record each"
    expected = dataset.expected_records
    if expected is not None:
        rows = min(expected, dataset.limit or expected)
        return rows, f"the recipe's expected_records: {rows:,}"
    return None, f"unknown before its inventory exists; give --samples {name}=N"
