"""The card says what configuration, fit and history say, and nothing else: for every variant and configuration."""

import ast
import re
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from model.agevlm.configuration_agevlm import AgeVlmConfig
from model.agevlm.letterbox import FITS
from model.history import Evaluation, History, Score, Stage, Weights
from model.model_card import model_card
from model.stage_table import PARTS, STAGES

PARAMETERS = {part: 10 * (n + 1) for n, part in enumerate(PARTS)}
CHAINS = {
    "CA-Baseline": ("stage1", "stage2", "stage3_baseline", "stage4_baseline"),
    "AGE-VLM": ("stage1", "stage2", "stage3", "stage4"),
    "AGE-VLM-LM": ("stage1", "stage2", "stage3", "stage4_lm"),
}
SHIPPED = tuple(Weights(role, "a" * 64, True) for role in ("language model", "vision encoder"))


def config(**fields: Any) -> AgeVlmConfig:
    text = LlamaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=4, num_attention_heads=2)
    return AgeVlmConfig(**{"text_config": text, "cross_attention_layers": [1, 3], **fields})


def history(rows: tuple[str, ...], guided_rows: int = 5, **fields: Any) -> History:
    stages = tuple(
        Stage(row, f"id-{row}", STAGES[row].guidance_loss, guided_rows * STAGES[row].guidance_loss, PARAMETERS, {})
        for row in rows
    )
    variant = next((name for name, chain in CHAINS.items() if chain == rows), None)
    given = {"artifact": "checkpoint/s/i", "variant": variant, "stages": stages, "dtype": "float32", **fields}
    return History(**given)


def card(**fields: Any) -> str:
    given: dict[str, Any] = {"config": config(), "fit": "letterbox", "parameters": PARAMETERS, "dtype": "float32"}
    return model_card(**{**given, "history": None, **fields})


def front_matter(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


configs = st.builds(
    config,
    cross_attention=st.sampled_from(["layer", "in_block"]),
    cross_attention_layers=st.sampled_from([[0], [1, 3], [0, 1, 2]]),
    mask_padding=st.booleans(),
    guidance_normalisation=st.sampled_from(["sum", "max"]),
    guidance_reduction=st.sampled_from(["mean", "sum"]),
)
lengths = st.integers(1, 4)


@given(configs, st.sampled_from(FITS), st.sampled_from(sorted(CHAINS)), lengths, st.integers(0, 9), st.booleans())
def test_sentences_match_what_is_known(
    settings: AgeVlmConfig, fit: str, variant: str, length: int, guided_rows: int, lost: bool
) -> None:
    rows = CHAINS[variant][:length]
    known = rows[-1:] if lost else rows  # the lineage ends where an ancestor is gone
    past = history(known, guided_rows, variant=variant if length == 4 else None)
    text = card(config=settings, fit=fit, history=past)

    acted = any(STAGES[row].guidance_loss for row in known) and guided_rows > 0
    assert ("a guidance loss drew its attention towards segmentation masks" in text) == acted
    assert ("attention-guidance" in front_matter(text)["tags"]) == acted
    formula = f"| guidance loss | {settings.guidance_normalisation}-normalised maps, {settings.guidance_reduction} over"
    assert (formula in text) == acted
    whole = known[0] == "stage1"
    never = whole and not any(STAGES[row].guidance_loss for row in known)
    assert ("language loss alone: no masks took part" in text) == never
    assert ("no row had a mask" in text) == (whole and not never and not acted)
    assert ("not recorded" in text) == (not whole and not acted)

    padded = fit != "squash"
    assert ("kept out of its attention" in text) == (padded and settings.mask_padding)
    assert ("attention may fall on that padding" in text) == (padded and not settings.mask_padding)
    assert ("stretched to the square" in text) == (not padded)
    assert ("mean colour around" in text) == (fit == "letterbox")
    assert ("with black around" in text) == (fit == "pad")

    count = settings.num_cross_attention_layers
    assert f"through {count} cross-attention layer{'s' if count > 1 else ''}, built" in text
    assert ("layers of their own at" in text) == (settings.cross_attention == "layer")
    assert ("inside blocks at" in text) == (settings.cross_attention == "in_block")

    assert f"\n# {variant if length == 4 else f'AGE-VLM after {rows[-1]}'}\n" in text
    assert ("none of the paper's finished variants" in text) == (length < 4)
    assert [re.search(rf"^\| trained in {row} \|", text, re.MULTILINE) is not None for row in STAGES] == [
        row in known for row in STAGES
    ]


@given(configs, st.sampled_from(FITS))
def test_without_a_history_the_card_says_nothing_of_training(settings: AgeVlmConfig, fit: str) -> None:
    text = card(config=settings, fit=fit)
    assert "How these weights were trained is not known here" in text
    for word in ("guidance", "masks", "lineage.json", "## Training", "trained in"):
        assert word not in text
    assert "No evaluation of these weights" in text
    assert front_matter(text)["license"] == "other"


def code(text: str) -> str:
    found = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@given(st.text(min_size=1))
def test_the_example_says_the_system_turn(prompt: str) -> None:
    text = card(system_prompt=prompt)
    strings = [n.value for n in ast.walk(ast.parse(code(text))) if isinstance(n, ast.Constant)]
    assert prompt in strings
    assert "keep it" in text


def test_without_a_system_turn_the_example_has_none() -> None:
    for prompt in (None, ""):
        text = card(system_prompt=prompt)
        assert "system" not in text
        ast.parse(code(text))


def test_the_licence_is_ours_only_where_everything_is() -> None:
    rows = CHAINS["AGE-VLM"]
    ours = card(history=history(rows, weights=SHIPPED, rendered=True))
    assert front_matter(ours)["license"] == "apache-2.0"
    assert "under Apache-2.0 as well" in ours
    foreign = Weights("SAM", "b" * 64)
    for weights, rendered in ((SHIPPED, False), (SHIPPED[:1], True), ((), True), ((*SHIPPED, foreign), True)):
        text = card(history=history(rows, weights=weights, rendered=rendered))
        assert front_matter(text)["license"] == "other"
        assert "licences of their own" in text
        assert ("teachers" in text) == (foreign in weights)
    hub = Weights("language model", f"hub:meta/llama@{'c' * 40}")
    named = card(history=history(rows, weights=(hub, SHIPPED[1])))
    assert front_matter(named)["base_model"] == ["meta/llama"]
    assert hub.fingerprint in named


def test_rendered_pictures_are_a_limit() -> None:
    assert "rendered pictures" in card(history=history(CHAINS["AGE-VLM"], rendered=True))
    assert "rendered pictures" not in card(history=history(CHAINS["AGE-VLM"]))


def test_scores_stand_with_interval_chance_and_number_format() -> None:
    scores = (
        Score("accuracy", 0.51234, 0.4, 0.6, 1234, 0.5, "always yes"),
        Score("recall", 0.25, 0.125, 0.375, 8),
    )
    past = history(
        CHAINS["AGE-VLM"], evaluations=(Evaluation("evaluation/age_vlm/abc", {"data": "questions"}, scores),)
    )
    text = card(history=past)
    assert "| accuracy | 0.512 [0.400, 0.600] | 1,234 | 0.500 (always yes) |" in text
    assert "| recall | 0.250 [0.125, 0.375] | 8 | - |" in text
    assert "evaluation/age_vlm/abc" in text
    assert "converted" not in text
    assert "evaluated in float32, and converted to bfloat16" in card(history=past, dtype="bfloat16")


def test_lineage_tells_what_is_lost_and_what_was_not_recorded() -> None:
    past = history(
        ("stage4",), trouble=("pack/x/y is gone",), commits=("", "abc"), versions={"torch": "2"},
        artifacts=({"artifact": "checkpoint/stage4", "id": "`z`"},),
    )  # fmt: skip
    text = card(history=past)
    assert "- pack/x/y is gone" in text
    assert "commit one that was not recorded, `abc`, with torch 2" in text
    assert "| checkpoint/stage4 | `z` |" in text
    assert "could be read" not in card(history=history(("stage1",)))
