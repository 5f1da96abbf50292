"""The model card (README.md) of an exported AGE-VLM: nothing in it is typed by hand.

Every sentence follows from the configuration, from the image processor's fit or from the history of the weights; what
none of them says, the card does not say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import transformers

from model.agevlm.configuration_agevlm import AgeVlmConfig
from model.history import Facts, History, Score, Stage, Weights
from model.markdown import columns, table
from model.stage_table import PARTS

USE = """\
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # this folder, or its name on a hub
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
chat = [{system}{{"role": "user", "content": [{{"type": "image", "image": Image.open("photo.jpg")}},
                                     {{"type": "text", "text": "What is in the picture?"}}]}}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True,
                                       return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=64, eos_token_id=processor.stop_token_ids(model))
print(processor.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
BACKBONES = ("language model", "vision encoder")
STAGES_NOTE = (
    "The learning rate rises to its peak, then follows half a cosine down. Final values are means over the last logged "
    "steps, on training data."
)
FITS = {
    "letterbox": "Pictures of another shape are fitted into the square, with the mean colour around them",
    "pad": "Pictures of another shape are fitted into the square, with black around them",
    "squash": "Pictures of another shape are stretched to the square, which distorts what they show.",
}


def model_card(
    config: AgeVlmConfig,
    fit: str,
    parameters: Mapping[str, int],
    dtype: str,
    history: History | None,
    system_prompt: str | None = None,
) -> str:
    """The card's text.

    Args:
        fit: how the image processor fits pictures into the square.
        parameters: of each part of the model (keys: `stage_table.PARTS`).
        dtype: number format of the exported weights.
        history: how the weights came to be; None if nothing is known of it.
        system_prompt: the system turn of the conversations that it was trained on, if they had one.
    """
    name = "AGE-VLM" if history is None else history.variant or f"AGE-VLM after {history.stages[-1].row}"
    blocks = [
        f"---\n{_front_matter(history)}\n---",
        f"# {name}",
        _about(config, history),
        "## Use",
        _use(system_prompt),
        "## Intended use and limits",
        _limits(config, fit, history),
        "## Architecture",
        table(("what", "value"), _architecture(config, dtype, history).items()),
        "## Parameters",
        _parameters(parameters, history),
    ]
    if history is not None:
        blocks += _training(history)
    blocks += _evaluations(history, dtype)
    blocks += ["## Licence", _licence(history)]
    if history is not None:
        blocks += _lineage(history)
    return "\n\n".join(blocks) + "\n"


def _front_matter(history: History | None) -> str:
    tags = ["agevlm", "cross-attention"]
    if history is not None and history.guidance == "acted":
        tags.append("attention-guidance")
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": tags}
    if _all_ours(history):
        head["license"] = "apache-2.0"
    else:
        head |= {"license": "other", "license_name": "licences-of-the-backbones"}
    hub = [w.hub_name for w in _backbones(history) if w.hub_name]
    if hub:
        head["base_model"] = hub
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())


def _about(config: AgeVlmConfig, history: History | None) -> str:
    count = config.num_cross_attention_layers
    lines = [
        f"A Llama that looks at one picture through {count} cross-attention {'layer' if count == 1 else 'layers'}, "
        'built as "Attention Guided Alignment in Efficient Vision-Language Models" describes AGE-VLM.'
    ]
    if history is None:
        return lines[0] + " How these weights were trained is not known here: they came without a lineage."
    if history.variant is not None:
        lines.append(
            f"Trained through the stages of the paper's variant {history.variant} by agevlm, which is not the authors' "
            "code."
        )
    else:
        last = history.stages[-1].row
        lines.append(f"A checkpoint that is none of the paper's finished variants: {last} was its last stage.")
    lines.append(_guidance(history))
    return " ".join(lines)


def _guidance(history: History) -> str:
    """One sentence about the guidance loss of eq. 3: whether it acted on these weights."""
    if history.guidance == "acted":
        stages = " and ".join(s.row for s in history.guided)
        rows = sum(s.guided_rows or 0 for s in history.guided)
        return (
            f"In {stages} a guidance loss drew its attention towards segmentation masks of what the text is about "
            f"({rows:,} guided rows)."
        )
    if history.guidance == "idle":
        stages = " and ".join(s.row for s in history.stages if s.guidance)
        return f"The guidance loss counted in {stages}, but no row had a mask, so it had no effect."
    if history.guidance == "off":
        return "It was trained with the language loss alone: no masks took part."
    return "Whether masks took part in all of its training is not recorded."


def _use(prompt: str | None) -> str:
    turn = f'{{"role": "system", "content": {prompt!a}}},\n        ' if prompt else ""
    note = " It was trained with the system turn that stands in the code; keep it." if prompt else ""
    return (
        f"Needs torch, timm, Pillow and transformers (exported with {transformers.__version__}). "
        f"`trust_remote_code` runs the Python files of this folder; read them first.{note}\n\n"
        f"```python\n{USE.format(system=turn).rstrip()}\n```"
    )


def _limits(config: AgeVlmConfig, fit: str, history: History | None) -> str:
    side = config.vision_config.image_size
    geometry = f"It sees one picture per conversation, as {side} x {side} pixels. {FITS[fit]}"
    if fit != "squash":
        geometry += (
            "; cells without any image pixel are kept out of its attention."
            if config.mask_padding
            else "; its attention may fall on that padding."
        )
    lines = [
        "Made for research: how well a small model answers questions about a picture, and where it looks.",
        geometry,
        "It can be wrong about what a picture shows, and wrong with confidence. Nothing here measures bias or safety; "
        "don't let it decide anything about people.",
    ]
    if history is not None and history.rendered:
        lines.append(
            "Its training showed it rendered pictures of coloured shapes alone, with texts from a few patterns; don't "
            "expect it to understand photographs."
        )
    if history is not None and history.variant is None:
        lines.append("It is no finished variant; expect its answers to be worse than those of one.")
    return "\n".join(f"- {line}" for line in lines)


def _architecture(config: AgeVlmConfig, dtype: str, history: History | None) -> dict[str, str]:
    text, vision = config.text_config, config.vision_config
    own = config.cross_attention == "layer"
    found = {
        "language model": f"Llama, {text.num_hidden_layers} layers of width {text.hidden_size}",
        "vision encoder": f"{vision.architecture}, {vision.image_size} px, stride {vision.stride}",
        "visual tokens": f"{vision.num_cells} ({vision.grid} x {vision.grid})",
        "cross-attention": f"{'layers of their own' if own else 'inside blocks'} at "
        f"{', '.join(map(str, config.cross_attention_layers))} of {'the expanded stack' if own else 'the Llama'}",
        "number format": dtype,
    }
    if history is not None and history.guidance == "acted":
        normalised = f"{config.guidance_normalisation}-normalised maps"
        found["guidance loss"] = f"{normalised}, {config.guidance_reduction} over the layers"
    return found


def _parameters(parameters: Mapping[str, int], history: History | None) -> str:
    rows = [("all", parameters)]
    rows += [(f"trained in {s.row}", s.trained) for s in (history.stages if history is not None else ())]
    cells = ((what, [*(f"{n.get(p, 0):,}" for p in PARTS), f"{sum(n.values()):,}"]) for what, n in rows)
    return table(("", *PARTS, "sum"), cells)


def _training(history: History) -> list[str]:
    stages = columns({s.row: _stage_facts(s) for s in history.stages})
    blocks = ["## Training", stages, STAGES_NOTE]
    if history.weights:
        names = {w.role: _origin(w) for w in history.weights}
        blocks += ["## Pretrained weights", table(("what", "where from"), names.items())]
    if history.data:
        blocks += ["## Data", columns(history.data)]
    if history.masks:
        blocks += ["## Masks", columns(history.masks)]
    return blocks


def _stage_facts(stage: Stage) -> Facts:
    rows = "-" if not stage.guidance else "not recorded" if stage.guided_rows is None else f"{stage.guided_rows:,}"
    losses = "language + guidance" if stage.guidance else "language"
    return {"losses": losses, "guided rows": rows, **stage.facts, "artifact": f"`{stage.artifact}`"}


def _origin(weights: Weights) -> str:
    if weights.hub_name:
        return f"`{weights.fingerprint}`"
    miniature = "the miniature weights that come with agevlm, " if weights.shipped else ""
    return f"{miniature}fingerprint `{weights.fingerprint}`"


def _evaluations(history: History | None, dtype: str) -> list[str]:
    if history is None or not history.evaluations:
        return ["## Evaluation", "No evaluation of these weights was at hand when this card was written."]
    words = (
        "In brackets: 95 % intervals, a bootstrap over images. They cover the choice of questions, not that of the "
        "training seed: there was one training run. Chance is what a model that does not look would get."
    )
    if dtype != history.dtype:
        words += f" The weights were evaluated in {history.dtype}, and converted to {dtype} afterwards."
    blocks = ["## Evaluation", words]
    for evaluation in history.evaluations:
        facts = {"artifact": f"`{evaluation.artifact}`", **evaluation.facts}
        blocks += [
            table(("evaluation", ""), facts.items()),
            table(("score", "value", "questions", "chance"), map(_score, evaluation.scores)),
        ]
    return blocks


def _score(score: Score) -> tuple[str, list[str]]:
    chance = "-" if score.chance is None else f"{score.chance:.3f} ({score.chance_name})"
    return score.title, [f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]", f"{score.n:,}", chance]


def _licence(history: History | None) -> str:
    code = "The Python files of this folder are agevlm's, under Apache-2.0 (`LICENSE-CODE`)."
    if _all_ours(history):
        return (
            f"{code} The weights were trained from agevlm's own miniature ones on pictures that it drew, and are under "
            "Apache-2.0 as well."
        )
    taught = history is not None and any(w.role not in BACKBONES for w in history.weights)
    return (
        f"{code} That says nothing about the weights: the language model and the vision encoder that they were trained "
        "from have licences of their own, which may bind what is made from them, and so may the training data"
        f"{' and the teachers that made the masks' if taught else ''}. Find out before you pass the weights on."
    )


def _lineage(history: History) -> list[str]:
    words = [f"Artifact `{history.artifact}`. `lineage.json` holds the whole chain, with every parameter."]
    if history.trouble:
        lost = "\n".join(f"- {line}" for line in history.trouble)
        words.append(f"Not all of it could be read; what only these would tell is left out above:\n\n{lost}")
    commits = ", ".join(f"`{c}`" if c else "one that was not recorded" for c in history.commits)
    versions = ", ".join(f"{name} {number}" for name, number in history.versions.items())
    words.append(f"Made by agevlm at git commit {commits}, with {versions}.")
    if history.artifacts:
        head = tuple(history.artifacts[0])
        words.append(table(head, ((next(iter(a.values())), list(a.values())[1:]) for a in history.artifacts)))
    return ["## Lineage", *words]


def _backbones(history: History | None) -> tuple[Weights, ...]:
    found = () if history is None else history.weights
    return tuple(w for w in found if w.role in BACKBONES)


def _all_ours(history: History | None) -> bool:
    """Whether all that the weights were made from is known to come with agevlm: backbones, teachers and pictures."""
    found = history.weights if history is not None and history.rendered else ()
    return len(_backbones(history)) == 2 and len(found) > 0 and all(w.shipped for w in found)
