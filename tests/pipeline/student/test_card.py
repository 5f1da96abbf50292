"""The card's statements follow from configuration, image processor and lineage, for every variant."""

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from model.agevlm.configuration_agevlm import AgeVlmConfig
from model.agevlm.letterbox import LETTERBOXES
from model.stage_table import PARTS, STAGES
from pipeline.artifacts.store import Artifact
from pipeline.plan.fingerprints import Fingerprints
from pipeline.plan.recipe import load_recipe
from pipeline.student.card import cell, number, write_card
from pipeline.student.card_facts import read_card_facts
from tests.pipeline.fixtures_finished_run import Chain
from tests.pipeline.student.test_card_facts import VARIANTS

PARAMETERS = {part: 10 * (n + 1) for n, part in enumerate(PARTS)}
UNESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\|")  # a bar after an even number of backslashes


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chain]:
    return {variant: Chain(tmp_path_factory.mktemp(variant), variant) for variant in VARIANTS}


def config(**fields: Any) -> AgeVlmConfig:
    text = LlamaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=4, num_attention_heads=2)
    return AgeVlmConfig(**{"text_config": text, "cross_attention_layers": [1, 3], **fields})


def card(**fields: Any) -> str:
    given: dict[str, Any] = {"config": config(), "letterbox": "mean", "parameters": PARAMETERS, "dtype": "float32"}
    return write_card(**{**given, "facts": None, "evaluated_in": "float32", **fields})


def front_matter(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def changed(artifact: Artifact, provenance: dict[str, Any] | None = None, **statistics: Any) -> Artifact:
    """The artifact as if its manifest had other statistics or provenance."""
    manifest = artifact.manifest
    told = manifest.provenance.model_copy(update=provenance or {})
    update = {"statistics": {**manifest.statistics, **statistics}, "provenance": told}
    return Artifact(artifact.store, manifest.model_copy(update=update))


configs = st.builds(
    config,
    cross_attention=st.sampled_from(["layer", "in_block"]),
    cross_attention_layers=st.sampled_from([[0], [1, 3], [0, 1, 2]]),
    mask_padding=st.booleans(),
    guidance_normalisation=st.sampled_from(["sum", "max"]),
    guidance_reduction=st.sampled_from(["mean", "sum"]),
)
lengths = st.integers(1, 4)
letterboxes = st.sampled_from(LETTERBOXES)


@given(configs, letterboxes, st.sampled_from(sorted(VARIANTS)), lengths, st.integers(0, 9), st.booleans())
def test_sentences_match_the_facts(
    chains: dict[str, Chain],
    settings: AgeVlmConfig,
    letterbox: str,
    variant: str,
    length: int,
    guided_rows: int,
    lost: bool,
) -> None:
    name, chain, _ = VARIANTS[variant]
    rows = chain[:length]
    facts = read_card_facts(chains[variant].made[rows[-1]])
    counts = [guided_rows if STAGES[row].guidance_loss else 0 for row in rows]
    stages = [changed(stage, guided_rows=n) for stage, n in zip(facts.stages, counts, strict=True)]
    known = rows[-1:] if lost else rows  # the lineage ends where an ancestor is gone
    facts = replace(facts, stages=tuple(stages[-len(known) :]))
    text = card(config=settings, letterbox=letterbox, facts=facts)

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

    padded = letterbox != "squash"
    assert ("kept out of its attention" in text) == (padded and settings.mask_padding)
    assert ("attention may fall on that padding" in text) == (padded and not settings.mask_padding)
    assert ("stretched to the square" in text) == (not padded)
    assert ("mean colour around" in text) == (letterbox == "mean")
    assert ("with black around" in text) == (letterbox == "zero")

    count = settings.num_cross_attention_layers
    assert f"through {count} cross-attention layer{'s' if count > 1 else ''}, built" in text
    assert ("layers of their own at" in text) == (settings.cross_attention == "layer")
    assert ("inside blocks at" in text) == (settings.cross_attention == "in_block")

    assert f"\n# {name if length == 4 else f'AGE-VLM after {rows[-1]}'}\n" in text
    assert ("none of the paper's finished variants" in text) == (length < 4)
    assert [re.search(rf"^\| trained in {row} \|", text, re.MULTILINE) is not None for row in STAGES] == [
        row in known for row in STAGES
    ]


@given(configs, letterboxes)
def test_without_a_lineage_the_card_says_nothing_of_training(settings: AgeVlmConfig, letterbox: str) -> None:
    text = card(config=settings, letterbox=letterbox)
    assert "How these weights were trained is not known here" in text
    for word in ("guidance", "masks", "lineage.json", "## Training", "trained in"):
        assert word not in text
    assert "No evaluation of these weights" in text
    assert front_matter(text)["license"] == "other"


def row(text: str, name: str) -> list[str]:
    """The cells of a table's row behind its name."""
    (line,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.MULTILINE)
    return [value.strip() for value in line.split("|")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tables_show_every_stage_and_where_its_data_came_from(variant: str, chains: dict[str, Chain]) -> None:
    made = chains[variant].made
    facts = read_card_facts(chains[variant].last)
    text = card(facts=facts)
    guidance = [STAGES[name].guidance_loss for name in facts.rows]
    assert row(text, "learning rate") == [
        number(stage.manifest.spec.params["config"]["learning_rate"]) for stage in facts.stages
    ]
    assert row(text, "global batch") == [
        str(stage.manifest.spec.params["config"]["global_batch"]) for stage in facts.stages
    ]
    assert row(text, "steps") == ["7"] * 4
    assert row(text, "final lm loss") == ["0.625"] * 4
    assert row(text, "final guidance loss") == ["1.5" if on else "-" for on in guidance]
    assert [value == "-" for value in row(text, "masks")] == [not on for on in guidance]
    assert row(text, "mask cells") == ["any" if on else "-" for on in guidance]
    assert row(text, "parent")[:2] == ["-", f"stage1 `{made['stage1'].ref.id[:12]}`"]
    assert row(text, "guided rows") == ["11" if on else "-" for on in guidance]
    assert row(text, "guided rows left out") == ["no token: 2" if on else "-" for on in guidance]
    assert row(text, "trained in stage1") == ["0", "20", "30", "0", "50"]
    assert row(text, "all") == ["10", "20", "30", "40", "100"]
    assert "max tokens: 256" in text
    assert "kind: miniature" in text
    assert ("## Masks" in text) == any(guidance)
    if any(guidance):
        masks = row(text, f"masks/pretrain `{made['masks-pretrain'].ref.id[:12]}`")
        assert "min sam iou: 0.5" in masks[0]
        assert masks[1:3] == ["12 of 16 queries, 4 rejected", "no region: 4"]
        assert "task: referring" in text
    for stage in facts.stages:
        assert row(text, f"checkpoint/{stage.ref.name}")[0] == f"`{stage.ref.id}`"
    assert len(re.findall(r"^\| steps \|", text, re.MULTILINE)) == 1


def test_exact_masks_are_compared_with_where_they_are_known(chains: dict[str, Chain]) -> None:
    facts = read_card_facts(chains["age_vlm"].last)
    known = {"overall": {"mean_iou_present": 0.8765, "present": 1234}}
    compared = [changed(a, truth=known) if a.ref.kind == "masks" else a for a in facts.artifacts]
    text = card(facts=replace(facts, artifacts=tuple(compared)))
    assert "Mean IoU of pretrain masks with the exact ones: 0.876 over 1,234 texts" in text
    assert "Mean IoU" not in card(facts=facts)


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


def test_the_licence_is_ours_only_where_everything_is(tmp_path: Path) -> None:
    known = Fingerprints(tmp_path / "scratch")
    shipped = {f"weights.{role}": known.weights(role, "miniature") for role in ("text", "vision", "florence", "sam")}
    ours = card(facts=read_card_facts(Chain(tmp_path / "ours", "age_vlm", fingerprints=shipped).last))
    assert front_matter(ours)["license"] == "apache-2.0"
    assert "under Apache-2.0 as well" in ours
    assert ours.count("the miniature weights that come with agevlm") == 4
    photographs = {"kind": "cambrian", "annotations": "a.jsonl", "images": "images"}
    data = {name: {"source": photographs} for name in ("pretrain", "instruct", "evaluation")}
    hub = {**shipped, "weights.text": f"hub:meta/llama@{'c' * 40}"}
    for variant, fingerprints, changes in (
        ("ca_baseline", shipped, {"data": data}),
        ("ca_baseline", hub, {}),
        ("age_vlm", {**shipped, "weights.sam": "b" * 64}, {}),
    ):
        chain = Chain(tmp_path / f"{len(list(tmp_path.iterdir()))}", variant, fingerprints=fingerprints, **changes)
        text = card(facts=read_card_facts(chain.last))
        assert front_matter(text)["license"] == "other"
        assert "licences of their own" in text
        assert ("teachers" in text.split("## Licence")[1]) == (variant == "age_vlm")
        assert front_matter(text).get("base_model") == (["meta/llama"] if fingerprints is hub else None)
        assert (hub["weights.text"] in text) == (fingerprints is hub)
        assert ("rendered pictures" in text) == (not changes)
    nothing_known = replace(read_card_facts(chain.last), artifacts=())
    assert front_matter(card(facts=nothing_known))["license"] == "other"


def test_scores_stand_with_interval_chance_and_number_format(chains: dict[str, Chain]) -> None:
    facts = read_card_facts(chains["age_vlm"].last)
    text = card(facts=facts)
    assert "| yes/no accuracy | 0.750 [0.500, 0.875] | 16 | 0.500 (always yes) |" in text
    assert "| open accuracy | 0.250 [0.125, 0.375] | 1,234 | - |" in text
    assert facts.evaluations[0].ref.path in text
    assert "converted" not in text
    assert "evaluated in float32, and converted to bfloat16" in card(facts=facts, dtype="bfloat16")


def test_the_lineage_names_what_is_lost_and_what_was_not_recorded(chains: dict[str, Chain]) -> None:
    facts = read_card_facts(chains["age_vlm"].last)
    first = changed(facts.artifacts[0], {"git_commit": None, "versions": {"torch": "2"}})
    last = changed(facts.artifacts[-1], {"git_commit": "abc", "versions": {"torch": "3"}})
    text = card(facts=replace(facts, artifacts=(first, last), trouble=("pack/x/y is gone",)))
    assert "- pack/x/y is gone" in text
    assert "Made by agevlm with an unrecorded git commit, git commit `abc`, torch 2, torch 3." in text
    assert f"| {first.ref.kind}/{first.ref.name} | `{first.ref.id}` |" in text
    assert "could be read" not in card(facts=facts)


@given(st.text())
def test_any_text_stays_in_its_cell(text: str) -> None:
    line = f"| {cell(text)} |"
    assert len(UNESCAPED.findall(line)) == 2
    assert len(line.splitlines()) == 1
    assert "<" not in line


def test_plain_text_is_left_as_it_is() -> None:
    assert cell("stage 4, lr 1e-05 `a_b`") == "stage 4, lr 1e-05 `a_b`"
    assert cell("a|b\n<c") == "a\\|b &lt;c"


@pytest.mark.parametrize("evil", ["[x](javascript:alert(1))", "![x](http://elsewhere.example/x.png)", "[x][y]"])
def test_a_text_makes_no_link_and_no_picture(evil: str) -> None:
    assert not re.search(r"(?<!\\)\[", cell(evil))


def test_values_as_text() -> None:
    assert number({"min_area": 0.0005, "beams": 3, "limit": None, "on": True}) == "min area: 0.0005, beams: 3, on: True"
    assert number({"gates": {"min_area": 0.5, "x": None}, "y": {}}) == "gates: (min area: 0.5), y: (-)"
    assert number([0.123456, None, "x"]) == "0.1235, -, x"
    assert number(1234567) == "1,234,567"
    assert number({"no_region": 1234, "min_area": 0}) == "no region: 1,234, min area: 0"
    assert number({}) == "-"


def test_a_schedule_of_the_guidance_weight_is_told(tmp_path: Path, chains: dict[str, Chain]) -> None:
    assert "at the end of its schedule" not in card(facts=read_card_facts(chains["age_vlm"].last))
    training = load_recipe("miniature").training.model_dump(mode="json")
    training["common"]["guidance_schedule"] = [[0, 0], [0.1, 1]]
    told = card(facts=read_card_facts(Chain(tmp_path, "age_vlm", training=training).last))
    assert "weight 1 at the end of its schedule |" in told
    assert "| guidance schedule | - | - | x 0 at 0 %, x 1 at 10 % of the steps | - |" in told
    assert "| guidance weight | - | - | 1 | - |" in told
