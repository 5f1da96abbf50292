"""Fabricated artifacts of every kind, published through the real store, from which the real step makes a report.

The scenes are the rendered world's; seeded noise stands in for teachers and students. No number here is a result.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from model.agevlm.letterbox import fit, mask_to_cells
from model.miniature.language import questions
from model.miniature.world import Scene, make_scene, render
from model.teachers import rle
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.staging import Staging, table_bytes
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.evaluation.attention import AttentionInMask
from pipeline.evaluation.existence import Existence
from pipeline.evaluation.overlay import heat_over
from pipeline.evaluation.questions import Attention, KnownObject, Prediction, Question
from pipeline.evaluation.table import BENCHMARKS
from pipeline.masks.quality import TruthComparison
from pipeline.plan.fingerprints import Fingerprints
from pipeline.plan.job import JobSpec, job_of
from pipeline.plan.locations import Locations
from pipeline.plan.planner import Plan, PlannedStep, plan
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.schemas import EVIDENCE, MASKS, OVERLAP, PACK, RECORDS, TRUTH, part_name
from pipeline.steps.runner import run_job

FINGERPRINTS = {
    **{f"data.{name}": f"{name}-raw" for name in ("pretrain", "instruct", "evaluation")},
    **{f"weights.{role}": f"{role}-weights" for role in ("florence", "sam", "text", "vision")},
    "tokenizer": "the-tokenizer",
}
METRICS = pa.schema(
    [
        ("step", pa.int64()),
        ("lm_loss", pa.float64()),
        ("guidance_loss", pa.float64()),
        ("attention_in_mask", pa.list_(pa.float64())),
        ("attention_on_padding", pa.list_(pa.float64())),
        ("guided_rows", pa.int64()),
        ("held_out_loss", pa.float64()),
    ]
)
SPEED = pa.schema(
    [(name, pa.float64()) for name in ("tokens_per_second", "data_wait", "checkpoint_seconds", "seconds")]
)
SIDE, STRIDE = 128, 16  # of the made-up student
SEEDS = {"pretrain": 100_000, "instruct": 200_000, "evaluation": 300_000}


@dataclass
class Fabric:
    """Makes the artifacts of a recipe's plan without running their steps, and then the report with its real step."""

    root: Path
    recipe: Recipe = field(default_factory=lambda: load_recipe("miniature"))
    scenes: int = 16
    evil: str = ""  # put into every query, question and answer
    leaked: int = 0  # images of the evaluation that are in the pretraining data too
    unseen: int = 0  # queries of each data set whose image was lost before the teachers could see it
    command: dict[str, Any] | None = None  # how the run was started

    def __post_init__(self) -> None:
        self.store = ArtifactStore(str(self.root / "store"))
        self.rng = np.random.default_rng(0)
        self.made: dict[str, Artifact] = {}
        self.statistics: dict[str, dict[str, Any]] = {}
        ours = [role for role, name in self.recipe.weights if name == "miniature"]
        real = {f"weights.{role}": Fingerprints(self.root / "cache").weights(role, "miniature") for role in ours}
        self.fingerprints = FINGERPRINTS | real

    def plan(self) -> Plan:
        return plan(self.recipe, self.store.attempt, self.fingerprints)

    def report(self, keep: set[str] | None = None) -> Artifact:
        """Everything up to the report; `keep` are the kinds of artifacts that the report gets (None: all)."""
        steps = self.plan()
        for step in steps:
            if step.key != "report":
                self.make(step)
        locations = Locations(root=str(self.root / "store"), scratch=str(self.root / "scratch"), sources={}, weights={})
        job = job_of(steps["report"], steps, locations, "f" * 40, self.command)
        if keep is not None:
            inputs = {name: ref for name, ref in job.inputs.items() if ref.kind in keep}
            spec = job.spec.model_copy(update={"inputs": {name: ref.id for name, ref in inputs.items()}})
            ref = job.ref.model_copy(update={"id": spec.id()})
            job = JobSpec(**{**dict(job), "spec": spec, "ref": ref, "inputs": inputs})
        return run_job(job)

    def mask_rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a data set's masks as they were published."""
        with self.made[f"masks-{name}"].open(part_name(0, 1)) as stream:
            return pq.ParquetFile(stream).read().to_pylist()

    def make(self, step: PlannedStep) -> Artifact:
        """Publish one step's made-up artifact, once; its inputs must be there."""
        if step.key in self.made:
            return self.made[step.key]
        parents = {name: self.made[key] for name, key in step.inputs.items()}
        job = f"{self.recipe.name}-{step.key}-{step.id[:12]}-r0"
        staging = Staging(self.store, step.ref, step.spec, step.attempt, parents, "a" * 40, job)
        counts = getattr(self, f"_{step.step.kind}")(staging, step)
        staging._clock -= float(self.rng.gamma(2.0, 8.0))  # a made-up duration
        self.made[step.key] = staging.publish(counts, self.statistics.pop(step.key, None))
        return self.made[step.key]

    # -- one method per kind of artifact

    def _scene(self, name: str, index: int) -> tuple[str, Scene]:
        return f"{name}-{index:04d}", make_scene(SEEDS[name] + index)

    def _checksum(self, name: str, index: int) -> str:
        leaked = name == "evaluation" and index < self.leaked
        return hashlib.sha256(f"{'pretrain' if leaked else name} {index}".encode()).hexdigest()

    def _inventory(self, staging: Staging, step: PlannedStep) -> Counts:
        name = step.ref.name
        records, truth = [], []
        for index in range(self.scenes):
            sample, scene = self._scene(name, index)
            picture, masks = render(scene)
            query, targets = self._query(name, scene)
            records.append(
                {
                    "sample_id": sample,
                    "given_id": sample,
                    "has_image": True,
                    "image": f"{sample}.png",
                    "image_sha256": self._checksum(name, index),
                    "width": scene.width,
                    "height": scene.height,
                    "turns": [{"question": query, "answer": "answer"}],
                }
            )
            union = masks[list(targets)].any(0) if targets else None
            truth.append(
                {
                    "sample_id": sample,
                    "turn": 0,
                    "present": bool(targets),
                    "height": scene.height,
                    "width": scene.width,
                    "rle": None if union is None else rle.encode(union),
                }
            )
            assert picture.shape == (scene.height, scene.width, 3)
        staging.write_table(part_name(0, 1, "records"), pa.Table.from_pylist(records, schema=RECORDS))
        staging.write_table(part_name(0, 1, "truth"), pa.Table.from_pylist(truth, schema=TRUTH))
        staging.write_rejects([(f"{name}-bad-{i}", "truncated", "image file is truncated") for i in range(3)])
        return Counts(unit="record", rows_in=self.scenes + 3, rows_out=self.scenes, rejected={"truncated": 3})

    def _query(self, name: str, scene: Scene) -> tuple[str, tuple[int, ...]]:
        asked = questions(scene)[0]
        words = asked.question if name == "pretrain" else f"{asked.question} {asked.answer}"
        return words + self.evil, asked.targets

    def _overlap(self, staging: Staging, step: PlannedStep) -> Counts:
        """Facts of images that differ inside a data set; only `leaked` ones are in two."""
        images = {name: {self._checksum(name, index) for index in range(self.scenes)} for name in SEEDS}
        self.statistics[step.key] = {
            name: {
                "records": self.scenes,
                "images": len(mine),
                "duplicates": 0,
                "images_in": {other: len(mine & images[other]) for other in SEEDS if other != name},
                "images_in_others": len(set().union(*(mine & images[other] for other in SEEDS if other != name))),
                "records_on_images_in": {other: len(mine & images[other]) for other in SEEDS if other != name},
            }
            for name, mine in images.items()
        }
        for name in ("pretrain", "instruct"):
            staging.write_table(part_name(0, 1, name), OVERLAP.empty_table())
        return Counts(unit="record", rows_in=3 * self.scenes, rows_out=3 * self.scenes)

    def _subset(self, staging: Staging, step: PlannedStep) -> Counts:
        staging.write_bytes("queries/part-00000-of-00001.parquet", b"not read by the report")
        return Counts(unit="record", rows_in=self.scenes, rows_out=self.scenes - 4, not_selected=4)

    def _rows(self, step: PlannedStep) -> list[tuple[dict[str, Any], str | None, dict[str, float]]]:
        """Per query its columns, the made-up teacher's mask and its scores."""
        name, rows = step.ref.name, []
        rng = np.random.default_rng(SEEDS[name])
        for index in range(self.scenes - 4):
            sample, scene = self._scene(name, index)
            query, targets = self._query(name, scene)
            masks = render(scene)[1]
            shown = masks[list(targets)].any(0) if targets else masks[0]
            shift = rng.integers(-7, 8, size=2)
            mask = rle.encode(np.roll(shown, shift, axis=(0, 1))) if rng.random() < (0.9 if targets else 0.4) else None
            columns = {
                "sample_id": sample,
                "turn": 0,
                "query_kind": "caption" if name == "pretrain" else "question_and_answer",
                "char_start": 0,
                "char_end": len(query),
                "image_sha256": "0" * 64,
                "height": scene.height,
                "width": scene.width,
                "query": query,
            }
            scores = {"polygon_score": 0.9, "sam_iou": float(rng.uniform(0.4, 1)), "agreement_iou": 0.6}
            rows.append((columns, mask, scores))
        return rows

    def _segments(self, staging: Staging, step: PlannedStep) -> Counts:
        rows = []
        for columns, mask, scores in self._rows(step):
            instance = {"polygons": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]], "box": [1.0, 1.0, 9.0, 9.0], "rle": mask}
            instance |= {"area": 100, "sam_iou": scores["sam_iou"], "agreement_iou": scores["agreement_iou"]}
            instance |= {"phrase": "", "area_fraction": 0.1, "stability": None}
            state = {"status": "ok" if mask else "no_region", "reason": "", "polygon_score": 0.9, "teacher": "t"}
            state |= {"ended": True, "answer_tokens": 9, "characters_cut": 0, "degenerate": 0}
            if len(rows) < self.unseen:
                state, mask = state | {"status": "error", "reason": "missing_image: no file"}, None
            rows.append({**columns, **state, "instances": [instance] if mask else []})
        staging.write_table(part_name(0, 1), pa.Table.from_pylist(rows, schema=EVIDENCE))
        return Counts(unit="query", rows_in=len(rows), rows_out=len(rows))

    def _masks(self, staging: Staging, step: PlannedStep) -> Counts:
        rows, rejected = [], 0
        for columns, mask, scores in self._rows(step):
            status, reason = ("no_region", "") if mask is None else ("ok", "")
            if mask is not None and scores["sam_iou"] < 0.55:
                status, reason = "low_quality", "min_sam_iou"
                rejected += 1
            if len(rows) < self.unseen:
                status, reason, mask = "error", f"missing_image: no file {len(rows)}.jpg", None
            kept = mask if status == "ok" else None
            state = {"status": status, "reason": reason, "rle": kept, "area": 100 if kept else 0, "teacher": "t"}
            rows.append({**columns, **state, **(scores if mask else dict.fromkeys(scores))})
        staging.write_table(part_name(0, 1), pa.Table.from_pylist(rows, schema=MASKS))
        with self.made[f"inventory-{step.ref.name}"].open(part_name(0, 1, "truth")) as stream:
            comparison = TruthComparison(pq.ParquetFile(stream).read().to_pylist())
        for row in rows:
            comparison.add(row)
        self.statistics[step.key] = {"truth": comparison.summary()}
        return Counts(unit="query", rows_in=len(rows), rows_out=len(rows))

    def _pack(self, staging: Staging, step: PlannedStep) -> Counts:
        rows = []
        for index in range(self.scenes):
            sample, scene = self._scene(step.ref.name, index)
            buffer = io.BytesIO()
            Image.fromarray(render(scene)[0]).save(buffer, "JPEG", quality=92)
            lists: dict[str, Any] = {"input_ids": [1], "target": [True], "token_starts": [0], "token_ends": [1]}
            image = {"image": buffer.getvalue(), "image_bytes": buffer.tell(), "length": 1}
            rows.append({"sample_id": sample, **image, **lists, "turns": []})
        shard = table_bytes(pa.Table.from_pylist(rows, schema=PACK), row_group_size=8)
        staging.write_bytes(part_name(0, 1), shard)
        return Counts(unit="record", rows_in=self.scenes, rows_out=self.scenes)

    def _checkpoint(self, staging: Staging, step: PlannedStep) -> Counts:
        guided = "masks" in step.inputs
        start = 4.2 / (1 + int(step.step.name[-1]))
        rows = []
        for i, number in enumerate(range(5, 151 if step.step.name == "stage4" else 51, 5)):
            noise = float(self.rng.normal(0, 0.04))
            mass = [min(0.95, 0.15 + 0.03 * i * (1 + k / 3) + float(self.rng.normal(0, 0.015))) for k in range(3)]
            rows.append(
                {
                    "step": number,
                    "lm_loss": start * 0.93**i + 0.2 + noise,
                    "guidance_loss": 2.2 * 0.95**i + noise if guided else None,
                    "attention_in_mask": mass if guided else None,
                    "attention_on_padding": [0.0] * 3 if guided else None,
                    "guided_rows": 4 if guided else 0,
                    "held_out_loss": start * 0.94**i + 0.25 if i % 3 == 2 else None,
                }
            )
        speed = [
            {"tokens_per_second": 900.0, "data_wait": 0.02, "checkpoint_seconds": 0.2, "seconds": 10.0 * (i + 1)}
            for i in range(len(rows))
        ]
        order: dict[str, Any] = {"padding": {"unsorted": 0.4, "sorted": 0.06}, "guided": None}
        if guided:
            order["guided"] = {"mean": 3.9, "deviation": 1.8, "binomial_deviation": 1.9, "longest_gap": 1}
        warnings = [{"name": "data_wait", "rows": 2, "text": "workers wait for data 7 % of the time"}] if guided else []
        staging.write_table("provenance/speed.parquet", pa.Table.from_pylist(speed, schema=SPEED))
        staging.write_bytes("stage.json", json.dumps({"order": order}).encode())
        staging.write_bytes("provenance/warnings.json", json.dumps(warnings).encode())
        staging.write_table("metrics.parquet", pa.Table.from_pylist(rows, schema=METRICS))
        staging.write_bytes("model/config.json", b"{}")
        return Counts(unit="sample", rows_in=self.scenes, rows_out=self.scenes)

    def _evaluation(self, staging: Staging, step: PlannedStep) -> Counts:
        """Made-up answers and attention, judged by the real benchmarks."""
        skill = {"ca_baseline": 0.1, "age_vlm": 0.35, "age_vlm_lm": 0.7}[step.ref.name]
        rng = np.random.default_rng(7)  # the same luck for every variant: only their skills differ
        predictions, pictures = [], []
        for index in range(self.scenes):
            sample, scene = self._scene("evaluation", index)
            picture, masks = render(scene)
            for turn, asked in enumerate(questions(scene)[:3]):
                mask = masks[list(asked.targets)].any(0) if asked.targets else None
                truth = KnownObject(mask is not None, None if mask is None else rle.encode(mask))
                words = (asked.question + self.evil, asked.answer)
                place = (f"{sample}.png", f"{index:064d}", scene.height, scene.width)
                question = Question(sample, turn, *words, *place, truth)
                luck = rng.random()
                answer = asked.answer if luck < 0.4 + skill / 2 else "No, there is none."
                predictions.append(Prediction(question, answer + self.evil, _attention(rng, scene, mask, skill)))
                pictures.append(Image.fromarray(picture))
        results = {b.name: b.score(predictions) for b in (Existence(), AttentionInMask())}
        for name, result in results.items():
            staging.write_table(BENCHMARKS[name].table_file, result.table)
        scores = [score.to_json() for result in results.values() for score in result.scores]
        content = {"scores": scores, "details": {name: result.details for name, result in results.items()}}
        staging.write_bytes("scores.json", json.dumps(content).encode())
        examples = []
        for number in range(6):
            prediction, picture = predictions[3 * number], pictures[3 * number]
            question, attention = prediction.question, prediction.attention
            known = question.truth is not None and question.truth.rle is not None
            mask = rle.decode(question.truth.rle, question.height, question.width) if known else None
            drawn = heat_over(picture, attention.maps[0], fit(question.height, question.width, SIDE, STRIDE), mask)
            for file, image in ((f"maps/{number}.png", drawn), (f"maps/{number}-image.png", picture)):
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                staging.write_bytes(file, buffer.getvalue())
            inside = None if attention.truth is None else attention.truth & attention.valid
            examples.append(
                {
                    "id": question.id,
                    "question": question.text,
                    "reference": question.reference,
                    "answer": prediction.answer,
                    "correct": prediction.answer == question.reference,
                    "present": known,
                    "mass": None if inside is None else float(attention.maps[0][inside].sum()),
                    "chance": None if inside is None else float(inside.sum() / attention.valid.sum()),
                    "layer": 0,
                    "map": f"maps/{number}.png",
                    "image": f"maps/{number}-image.png",
                }
            )
        staging.write_bytes("examples.json", json.dumps({"examples": examples}).encode())
        return Counts(unit="question", rows_in=len(predictions), rows_out=len(predictions))


def _attention(rng: np.random.Generator, scene: Scene, mask: Any, skill: float) -> Attention:
    """Noise, and with more skill more of it inside the mask."""
    place = fit(scene.height, scene.width, SIDE, STRIDE)
    valid = mask_to_cells(np.ones((scene.height, scene.width), bool), place).reshape(-1)
    truth = None if mask is None else mask_to_cells(mask, place).reshape(-1)
    maps = rng.random((3, len(valid))) ** 2 * valid
    if truth is not None:
        maps += np.array([[0.6], [1.0], [1.4]]) * skill * 4 * truth
    return Attention((maps / maps.sum(1, keepdims=True)).astype(np.float32), valid, truth)


def page_of(artifact: Artifact) -> str:
    """The page's text."""
    with artifact.open("report.html") as stream:
        return stream.read().decode("utf-8")
