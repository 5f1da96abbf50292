"""The model card (README.md) of an exported AGE-VLM, written from its lineage: nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.agevlm.configuration_agevlm import AgeVlmConfig
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.stage_table import PARTS
from model.stages import describe_stages

USAGE = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # this folder, or its name on a hub
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
chat = [{"role": "user", "content": [{"type": "image", "image": Image.open("photo.jpg")},
                                     {"type": "text", "text": "What is in the picture?"}]}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True,
                                       return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=64, eos_token_id=processor.stop_token_ids(model))
print(processor.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""


def write_export(
    model: AgeVlmForConditionalGeneration,
    processor: AgeVlmProcessor,
    folder: Path,
    lineage: Mapping[str, Any],
    max_shard_size: str = "5GB",
) -> None:
    """Save model, processor, their code and the model card: a folder that opens without this project.

    `lineage` is plain JSON data about how the weights came to be (stages, data, masks, scores); it is also kept whole
    in `lineage.json`. Keys that the card shows as tables are named in `model_card`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    text = json.dumps(lineage, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "lineage.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(model_card(model, lineage), encoding="utf-8")


def model_card(model: AgeVlmForConditionalGeneration, lineage: Mapping[str, Any]) -> str:
    """The card's text. Shown from the lineage where present: name, variant, license, stages, data, scores, artifact."""
    name = str(lineage.get("name", "AGE-VLM"))
    head = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": lineage.get("license", "other"),
        "tags": ["agevlm", "cross-attention", "attention-guidance"],
    }
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    sections = [
        f"---\n{front}\n---\n\n# {name}",
        "An AGE-VLM: a Llama that looks at pictures through cross-attention layers, whose attention was guided towards "
        "segmentation masks in training (Attention Guided Alignment in Efficient Vision-Language Models).",
        "## Use\n\n" + USAGE.rstrip(),
        "## Architecture\n\n" + _table(_architecture(model.config), ("what", "value")),
        "## Parameters\n\n" + _parameters(model),
    ]
    for title, key in (("Training", "stages"), ("Data", "data"), ("Scores", "scores")):
        rows = lineage.get(key)
        if rows:
            sections.append(f"## {title}\n\n" + _records(rows))
    if "artifact" in lineage:
        sections.append(f"## Lineage\n\nArtifact `{lineage['artifact']}`. The whole chain is in `lineage.json`.")
    limits = "It sees one square picture per conversation; padding is excluded from its attention."
    sections.append(f"## Limits\n\n{limits} It can be wrong about what a picture shows.")
    return "\n\n".join(sections) + "\n"


def _architecture(config: AgeVlmConfig) -> dict[str, str]:
    text, vision = config.text_config, config.vision_config
    where = "layers of their own" if config.cross_attention == "layer" else "inside blocks"
    return {
        "language model": f"Llama, {text.num_hidden_layers} layers of width {text.hidden_size}",
        "vision encoder": f"{vision.architecture}, {vision.image_size} px, stride {vision.stride}",
        "visual tokens": f"{vision.num_cells} ({vision.grid} x {vision.grid})",
        "cross-attention": f"{where} at {', '.join(map(str, config.cross_attention_layers))}",
        "guidance": f"{config.guidance_normalisation}-normalised, {config.guidance_reduction} over layers",
    }


def _parameters(model: AgeVlmForConditionalGeneration) -> str:
    reports = describe_stages(model)
    rows = [("all", reports[0].total, reports[0].all_parameters)]
    rows += [(f"trained in {r.stage.name}", r.trainable, r.trainable_parameters) for r in reports]
    lines = [f"| | {' | '.join(PARTS)} | sum |", "|---" * (len(PARTS) + 2) + "|"]
    lines += [f"| {what} | {' | '.join(f'{n[p]:,}' for p in PARTS)} | {total:,} |" for what, n, total in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")


def _table(rows: Mapping[str, Any], head: tuple[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())])


def _records(rows: Any) -> str:
    """A mapping as a two-column table, a list of mappings as one table with all their keys, anything else as JSON."""
    if isinstance(rows, Mapping):
        return _table(rows, ("what", "value"))
    if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines = [f"| {' | '.join(map(_cell, keys))} |", "|---" * len(keys) + "|"]
        lines += [f"| {' | '.join(_cell(row.get(key, '')) for key in keys)} |" for row in rows]
        return "\n".join(lines)
    return f"```json\n{json.dumps(rows, indent=2, ensure_ascii=False)}\n```"
