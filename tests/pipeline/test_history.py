"""The history of a checkpoint says what its lineage says, and names what it cannot say."""

import json
from pathlib import Path

import pytest

from model.stage_table import STAGES
from pipeline.facts import number, pairs
from pipeline.fingerprints import Fingerprints
from pipeline.history import history_of
from tests.pipeline.chain import FINGERPRINTS, Chain

VARIANTS = {
    "ca_baseline": ("CA-Baseline", ("stage1", "stage2", "stage3_baseline", "stage4_baseline"), "off"),
    "age_vlm": ("AGE-VLM", ("stage1", "stage2", "stage3", "stage4"), "acted"),
    "age_vlm_lm": ("AGE-VLM-LM", ("stage1", "stage2", "stage3", "stage4_lm"), "acted"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_its_own_history(variant: str, tmp_path: Path) -> None:
    chain = Chain(tmp_path, variant)
    name, rows, guidance = VARIANTS[variant]
    found = history_of(chain.store, chain.last, "float32")
    assert (found.variant, tuple(s.row for s in found.stages), found.guidance) == (name, rows, guidance)
    assert found.complete
    assert found.trouble == ()
    for stage in found.stages:
        config = chain.made[stage.row].manifest.spec.params["config"]
        assert stage.facts["peak learning rate"] == number(config["learning_rate"])
        assert stage.facts["global batch"] == str(config["global_batch"])
        assert stage.facts["optimiser steps"] == "7"
        assert stage.facts["final language loss"] == "0.625"
        assert stage.facts["final guidance loss"] == ("1.5" if STAGES[stage.row].guidance_loss else "-")
        assert (stage.facts["masks"] == "-") == (not stage.guidance)
        assert stage.guided_rows == (11 if stage.guidance else 0)
    guided = {"ca_baseline": [], "age_vlm": ["pretrain"], "age_vlm_lm": ["pretrain", "instruct"]}[variant]
    assert list(found.masks) == guided
    for facts in found.masks.values():
        assert facts["masks accepted"] == "12 of 16 queries"
        assert facts["not accepted"] == "4 no region"
        assert "min sam iou: 0.5" in facts["gates"]
        assert "Locate {query} in the image with mask" in facts["teachers"]
    roles = ["language model", "vision encoder", *(["Florence-2", "SAM"] if guided else [])]
    assert [w.role for w in found.weights] == roles
    assert [e.artifact for e in found.evaluations] == [chain.made[f"evaluate-{variant}"].ref.path]
    assert found.evaluations[0].scores[0].low == 0.5
    assert "kind: miniature" in found.evaluations[0].facts["data"]
    assert found.data["instruct"]["longest row, tokens"] == "256"
    assert found.rendered
    assert found.commits == ("c" * 40,)
    assert set(found.versions) >= {"torch", "transformers", "python"}


def test_a_checkpoint_from_the_middle_has_no_variant_and_no_scores(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "age_vlm")
    found = history_of(chain.store, chain.made["stage2"], "float32")
    assert found.variant is None
    assert found.guidance == "off"
    assert found.evaluations == ()
    assert list(found.data) == ["pretrain"]


def test_lost_and_replaced_ancestors_are_named_and_nothing_is_said_of_them(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "ca_baseline")
    chain.remove("stage2")
    chain.remove("pack-instruct")
    chain.publish("pack-instruct", b"other bytes under the same id")
    found = history_of(chain.store, chain.last, "float32")
    assert found.variant == "CA-Baseline"
    assert [s.row for s in found.stages] == ["stage3_baseline", "stage4_baseline"]
    assert found.guidance == "unknown"
    assert found.weights == ()
    assert list(found.data) == ["pretrain"]
    stage2, pack = chain.made["stage2"].ref.path, chain.made["pack-instruct"].ref
    assert set(found.trouble) == {f"{stage2} is gone", f"{pack.path} was replaced since it was read"}
    assert pack.id[:12] in found.stages[-1].facts["data"]  # what was read is known all the same
    ids = {a["ref"]["id"] for a in found.lineage["artifacts"]}
    assert pack.id not in ids


def test_scores_of_other_weights_and_damaged_scores_are_left_out_by_name(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "age_vlm")
    evaluation = chain.made["evaluate-age_vlm"]
    file = Path(evaluation.path("scores.json"))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"0.75", b"0.99"))
    found = history_of(chain.store, chain.last, "float32")
    assert found.evaluations == ()
    assert "scores.json has sha256" in found.trouble[0]
    file.write_bytes(whole)

    chain.remove("stage4")
    other = chain.publish("stage4", b"other weights")
    found = history_of(chain.store, other, "float32")
    assert found.evaluations == ()
    assert "is of other weights" in found.trouble[0]

    Path(chain.store.manifest_path(evaluation.ref)).write_text("{}")
    found = history_of(chain.store, other, "float32")
    assert found.trouble == (
        f"{evaluation.ref.path} has a damaged manifest, so it is not known whether it is of these weights",
    )


def test_the_lineage_names_every_ancestor_and_no_machine(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "age_vlm_lm")
    lineage = history_of(chain.store, chain.last, "float32").lineage
    assert {a["ref"]["id"] for a in lineage["artifacts"]} == {
        a.ref.id for key, a in chain.made.items() if key != "inventory-evaluation"
    }
    text = json.dumps(lineage)
    assert str(tmp_path) not in text
    assert "job-of" not in text
    assert all("host" not in a["provenance"] for a in lineage["artifacts"])


def test_photographs_are_not_called_rendered(tmp_path: Path) -> None:
    data = {
        "pretrain": {"source": {"kind": "miniature", "records": "captions", "scenes": 8, "seed": 0}},
        "instruct": {"source": {"kind": "cambrian", "annotations": "a.jsonl", "images": "images"}},
        "evaluation": {"source": {"kind": "cambrian", "annotations": "e.jsonl", "images": "images"}},
    }
    chain = Chain(tmp_path, "ca_baseline", data=data)
    assert not history_of(chain.store, chain.last, "float32").rendered
    assert history_of(chain.store, chain.made["stage3_baseline"], "float32").rendered


def test_the_miniature_weights_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FINGERPRINTS, "weights.text", Fingerprints(tmp_path / "cache").weights("text", "miniature"))
    chain = Chain(tmp_path / "store", "age_vlm")
    assert [w.shipped for w in history_of(chain.store, chain.last, "float32").weights] == [True, False, False, False]


def test_values_for_people() -> None:
    assert pairs({"min_area": 0.0005, "beams": 3, "limit": None, "on": True}) == "min area: 0.0005, beams: 3, on: True"
    assert number([0.123456, None, "x"]) == "0.1235, -, x"
    assert number(1234567) == "1,234,567"
