"""The facts of a card are those of the checkpoint's lineage; lost and replaced artifacts are named and left out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.stage_table import STAGES
from pipeline.artifacts.store import Artifact
from pipeline.plan.fingerprints import Fingerprints
from pipeline.student.card_facts import CardFacts, guidance_counted, parent_of, read_card_facts, scores_of
from tests.pipeline.fixtures_finished_run import Chain

VARIANTS = {
    "ca_baseline": ("CA-Baseline", ["stage1", "stage2", "stage3_baseline", "stage4_baseline"], "off"),
    "age_vlm": ("AGE-VLM", ["stage1", "stage2", "stage3", "stage4"], "acted"),
    "age_vlm_lm": ("AGE-VLM-LM", ["stage1", "stage2", "stage3", "stage4_lm"], "acted"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_facts_of_every_variant(variant: str, tmp_path: Path) -> None:
    chain = Chain(tmp_path, variant)
    name, rows, guidance = VARIANTS[variant]
    found = read_card_facts(chain.last)
    assert (found.variant, found.rows, found.guidance) == (name, rows, guidance)
    assert found.complete
    assert found.trouble == ()
    assert [stage.ref for stage in found.stages] == [chain.made[row].ref for row in rows]
    assert [guidance_counted(stage) for stage in found.stages] == [STAGES[row].guidance_loss for row in rows]
    guided = {"ca_baseline": [], "age_vlm": ["pretrain"], "age_vlm_lm": ["pretrain", "instruct"]}[variant]
    assert [a.ref.name for a in found.of_kind("masks")] == guided
    assert len(found.of_kind("masks", "segments", "subset")) == 3 * len(guided)
    assert {a.ref for a in found.of_kind("inventory", "pack")} == {
        chain.made[f"{kind}-{name}"].ref for name in ("pretrain", "instruct") for kind in ("inventory", "pack")
    }
    roles = ["language model", "vision encoder", *(["Florence-2", "SAM"] if guided else [])]
    assert [role for role, *_ in found.weights] == roles
    assert [e.ref for e in found.evaluations] == [chain.made[f"evaluate-{variant}"].ref]
    assert scores_of(found.evaluations[0])[0]["low"] == 0.5
    assert found.rendered
    assert found.made_with[0] == f"git commit `{'c' * 40}`"
    assert {"torch", "transformers", "python"} <= {version.split(" ")[0] for version in found.made_with[1:]}


def test_a_checkpoint_from_the_middle_has_no_variant_and_no_scores(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "age_vlm")
    found = read_card_facts(chain.made["stage2"])
    assert found.variant is None
    assert found.guidance == "off"
    assert found.evaluations == ()
    assert [a.ref.name for a in found.of_kind("inventory", "pack")] == ["pretrain", "pretrain"]


def with_guided_rows(facts: CardFacts, rows: list[int | None]) -> CardFacts:
    """The facts as they would be had the last stages recorded these numbers of guided rows, None for not recorded."""
    stages = list(facts.stages)
    for at, count in enumerate(rows, len(stages) - len(rows)):
        statistics = {**stages[at].manifest.statistics, "guided_rows": count}
        stages[at] = Artifact(stages[at].store, stages[at].manifest.model_copy(update={"statistics": statistics}))
    return replace(facts, stages=tuple(stages))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([7, 0], "acted"), ([0, 0], "idle"), ([None, 0], "unknown"), ([0, 3], "acted"), ([3], "acted")],
)
def test_guidance_acted_if_a_row_was_guided(rows: list[int | None], expected: str, tmp_path: Path) -> None:
    facts = with_guided_rows(read_card_facts(Chain(tmp_path, "age_vlm_lm").last), rows)
    assert facts.guidance == expected
    assert facts.guided_rows == dict(zip(("stage3", "stage4_lm"), rows if len(rows) == 2 else [11, *rows], strict=True))


def test_guidance_of_a_checkpoint_whose_ancestors_are_lost(tmp_path: Path) -> None:
    for variant, expected in (("ca_baseline", "unknown"), ("age_vlm", "unknown"), ("age_vlm_lm", "acted")):
        facts = read_card_facts(Chain(tmp_path / variant, variant).last)
        lost = replace(facts, stages=facts.stages[-1:])
        assert lost.guidance == expected
        assert lost.variant == facts.variant
        assert not lost.rendered  # the first stages may have seen anything


def test_lost_and_replaced_ancestors_are_named_and_left_out(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "ca_baseline")
    chain.remove("stage2")
    chain.remove("pack-instruct")
    chain.publish("pack-instruct", b"other bytes under the same id")
    found = read_card_facts(chain.last)
    assert found.variant == "CA-Baseline"
    assert found.rows == ["stage3_baseline", "stage4_baseline"]
    assert found.guidance == "unknown"
    assert found.weights == []
    assert not found.rendered
    assert [a.ref.name for a in found.of_kind("inventory", "pack")] == ["pretrain", "pretrain"]
    stage2, pack = chain.made["stage2"].ref.path, chain.made["pack-instruct"].ref
    assert set(found.trouble) == {f"{stage2} is gone", f"{pack.path} was replaced since it was read"}
    assert parent_of(found.stages[-1], "pack") is None
    ids = {a["ref"]["id"] for a in found.lineage["artifacts"]}
    assert pack.id not in ids


def test_scores_of_other_weights_and_damaged_scores_are_left_out_by_name(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "age_vlm")
    evaluation = chain.made["evaluate-age_vlm"]
    file = Path(evaluation.path("scores.json"))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"0.75", b"0.99"))
    found = read_card_facts(chain.last)
    assert found.evaluations == ()
    assert "scores.json has sha256" in found.trouble[0]
    file.write_bytes(whole)

    chain.remove("stage4")
    other = chain.publish("stage4", b"other weights")
    found = read_card_facts(other)
    assert found.evaluations == ()
    assert "is of other weights" in found.trouble[0]

    Path(chain.store.manifest_path(evaluation.ref)).write_text("{}")
    found = read_card_facts(other)
    assert found.trouble == (
        f"{evaluation.ref.path} has a damaged manifest, so it is not known whether it is of these weights",
    )


def test_the_lineage_names_every_ancestor_and_no_machine(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "age_vlm_lm")
    lineage = read_card_facts(chain.last).lineage
    assert {a["ref"]["id"] for a in lineage["artifacts"]} == {
        a.ref.id for key, a in chain.made.items() if key not in ("inventory-evaluation", "overlap")
    }
    text = json.dumps(lineage)
    assert str(tmp_path) not in text
    assert "job-of" not in text
    assert "prefect.test" not in text
    assert all("host" not in a["provenance"] for a in lineage["artifacts"])


def test_photographs_are_not_called_rendered(tmp_path: Path) -> None:
    data = {
        "pretrain": {"source": {"kind": "miniature", "records": "captions", "scenes": 8, "seed": 0}},
        "instruct": {"source": {"kind": "cambrian", "annotations": "a.jsonl", "images": "images"}},
        "evaluation": {"source": {"kind": "cambrian", "annotations": "e.jsonl", "images": "images"}},
    }
    chain = Chain(tmp_path, "ca_baseline", data=data)
    assert not read_card_facts(chain.last).rendered
    assert read_card_facts(chain.made["stage3_baseline"]).rendered


def test_the_miniature_weights_are_recognised(tmp_path: Path) -> None:
    known = Fingerprints(tmp_path / "scratch")
    shipped = {f"weights.{role}": known.weights(role, "miniature") for role in ("text", "vision", "florence", "sam")}
    some = read_card_facts(Chain(tmp_path / "some", "age_vlm", fingerprints={**shipped, "weights.sam": "other"}).last)
    assert [ours for *_, ours in some.weights] == [True, True, True, False]
    assert not some.all_shipped
    assert read_card_facts(Chain(tmp_path / "all", "age_vlm", fingerprints=shipped).last).all_shipped
    del shipped["weights.vision"]
    assert not read_card_facts(Chain(tmp_path / "encoder", "ca_baseline", fingerprints=shipped).last).all_shipped


def test_backbones_from_a_hub_have_a_name(tmp_path: Path) -> None:
    hub = {"weights.text": f"hub:meta/llama@{'a' * 40}", "weights.sam": f"hub:meta/sam@{'b' * 40}"}
    assert read_card_facts(Chain(tmp_path, "age_vlm", fingerprints=hub).last).hub_backbones == ["meta/llama"]
