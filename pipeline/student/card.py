"""The model card (README.md) of an exported student: `card.md.jinja`, filled from its configuration and its lineage.

Every statement follows from the configuration, the image processor or the manifests; nothing else is claimed.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact
from pipeline.student.card_facts import CardFacts, guidance_counted, inputs_of, scores_of, trained_parts
from pipeline.training.config import GUIDANCE_FIELDS, StageConfig

if TYPE_CHECKING:
    from model.agevlm.configuration_agevlm import AgeVlmConfig

TEMPLATE = "card.md.jinja"


def write_card(
    config: "AgeVlmConfig",
    letterbox: str,
    parameters: Mapping[str, int],
    dtype: str,
    facts: CardFacts | None,
    evaluated_in: str,
    system_prompt: str | None = None,
) -> str:
    """The card's text.

    Args:
        letterbox: the image processor's way of fitting pictures into the square: 'mean', 'zero' or 'squash'.
        parameters: number of parameters of each part of the model, in the order of `stage_table.PARTS`.
        dtype: number format of the exported weights.
        facts: the checkpoint's lineage; None if nothing is known of it.
        evaluated_in: number format of the checkpoint, which was evaluated.
        system_prompt: the system turn of the training conversations, if they had one.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (cell, figures, inputs_of, number, scores_of, short, stage_column)
    environment.filters.update({filter_.__name__: filter_ for filter_ in filters})
    return environment.get_template(TEMPLATE).render(
        config=config,
        letterbox=letterbox,
        parameters=parameters,
        dtype=dtype,
        facts=facts,
        evaluated_in=evaluated_in,
        system_prompt=system_prompt and ascii(system_prompt),
        transformers=version("transformers"),
    )


def stage_column(stage: Artifact) -> dict[str, str]:
    """One stage of training: its data, settings, final metrics and cost."""
    manifest, guided = stage.manifest, guidance_counted(stage)
    config, said = manifest.spec.params.get("config", {}), manifest.statistics
    given = {
        "losses": "language + guidance" if guided else "language",
        "trained": trained_parts(stage),
        **dict.fromkeys(("parent", "pack", "masks")),
        **{name: f"{parent.ref.name} `{short(parent.ref.id)}`" for name, parent in manifest.parents.items()},
        "guided rows": said.get("guided_rows", "not recorded") if guided else None,
        "guided rows left out": said.get("guidance_left_out") if guided else None,
        **config,
        **_guidance_settings(config, guided),
        **{name: said.get(name) for name in ("steps", "samples", "distinct_samples")},
        **{f"final {name}": value for name, value in said.get("final", {}).items()},
        "seed": manifest.spec.params.get("seed"),
        "device": manifest.provenance.device,
        "seconds": round(manifest.provenance.seconds),
        "artifact": f"`{short(stage.ref.id)}`",
    }
    return {name.replace("_", " "): number(value) for name, value in given.items()}


def _guidance_settings(config: Mapping[str, Any], guided: bool) -> dict[str, Any]:
    """The settings of the guidance loss as the table shows them; without that loss they have no effect."""
    if not guided:
        return dict.fromkeys(GUIDANCE_FIELDS)
    points = {name: value for name, value in config.items() if name == "guidance_schedule"}
    said = StageConfig.model_validate(points).guidance_points
    return {**{name: config.get(name) for name in GUIDANCE_FIELDS}, "guidance_schedule": said or None}


def figures(artifact: Artifact) -> dict[str, float]:
    """The single numbers among an artifact's statistics."""
    return {name: value for name, value in artifact.manifest.statistics.items() if isinstance(value, (int, float))}


def cell(text: str) -> str:
    """Text for one cell of a Markdown table: on one line, and nothing in it is a link, an image or HTML."""
    shown = "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    plain = shown.replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(re.sub(r"([\\\[\]|])", r"\\\1", plain).split())


def number(value: Any) -> str:
    """A value of a manifest as text: '-' for None; 'min area: 0.01, beams: 3' for a mapping, without its Nones."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        texts = {k: f"({number(v)})" if isinstance(v, Mapping) else number(v) for k, v in value.items()}
        return ", ".join(f"{k.replace('_', ' ')}: {text}" for k, text in texts.items() if text != "-") or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(number, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
