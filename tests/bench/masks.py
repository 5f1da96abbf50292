"""Mask generation on Ray against the models alone, and against the loop of the public demos; and a long run's memory.

Run: `python -m tests.bench masks`. Florence-2 and SAM of a middle size with random weights, whose answers have a fixed
number of tokens; four texts an image; the models have one thread in every way. The ways take turns, each in a process
of its own, on the same rows and the same cores:

    alone      the models only, on decoded pictures in memory, in the pipeline's shards
    script     one row at a time as in the demos of Grounded-SAM and Florence-2: the stock processor, generate and
               SamPredictor.set_image for each row, same beams and tokens; on the first rows only
    pipeline   `python -m pipeline run`: read, decode, Ray, commits and all. Its speed is that from the end of the first
               shard to the end of the last

Figures are medians over the turns:

    masks.efficiency       images/s of the pipeline over those of the models alone
    masks.overhead_ms      CPU-milliseconds an image, of all processes, beyond the models alone and decoding
    masks.vs_script        images/s of the pipeline over those of the script
    masks.startup_seconds  from the start of the pipeline's process to the start of its first shard
    masks.import_seconds   of that, the imports of an actor, measured in a process of its own

`--soak ROWS` runs that many rows of the miniature through segment and masks instead, with the teacher `--teacher`, and
samples the memory of all processes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.compute.resources import usable_cpus
from pipeline.masks.config import TeacherConfig
from pipeline.plan.job import JobSpec
from pipeline.schemas import QUERIES
from tests.bench.images import HEIGHT, WIDTH, picture
from tests.pipeline.masks.fixtures_dataset import Dataset, publish_dataset
from tests.pipeline.masks.fixtures_process_tree import ProcessTree
from tests.pipeline.steps.fixtures_single_step import shards_of

LEAST_EFFICIENCY, MOST_OVERHEAD_MS, LEAST_VS_SCRIPT = 0.95, 15.0, 2.5
TOKENS = 24
TEXTS = ("A red cup.", "The blue box on the left.", "A green ring near the middle.", "Two dots.")
THREADS = 1
SHOWN = 6  # processes whose CPU time is printed
ACTOR = "MapWorker"
IMPORTS = "import pipeline.masks.teachers.florence_sam"


@dataclass(frozen=True)
class Run:
    """One run of one way."""

    images: float
    """Images per second."""
    cpu: float
    """CPU-seconds an image."""
    startup: float = 0.0
    """Seconds to the start of the first shard."""
    others: float = 0.0
    """Of `cpu`, that of other processes than the actor."""


def make_rows(folder: Path, images: int) -> Dataset:
    """Photographs and four texts about each, with inventory and subset."""
    (folder / "images").mkdir()
    queries = []
    for number in range(images):
        content = picture(number)
        (folder / "images" / f"{number:05}.jpg").write_bytes(content)
        for turn, text in enumerate(TEXTS):
            place = {"sample_id": f"s{number:05}", "turn": turn, "query_kind": "caption", "char_start": 0}
            size = {"height": HEIGHT, "width": WIDTH, "image_sha256": hashlib.sha256(content).hexdigest()}
            queries.append(place | size | {"char_end": len(text), "query": text, "image": f"{number:05}.jpg"})
    return publish_dataset(folder, queries, [])


def of_alone(job: JobSpec) -> dict[str, float]:
    """The models of the pipeline, shard by shard, on decoded pictures."""
    import numpy as np

    from pipeline.masks.config import TeacherSetup
    from pipeline.masks.evidence import segment_shard
    from pipeline.masks.parts import cut
    from pipeline.masks.pictures import Picture, pictures_of, read_pictures
    from pipeline.masks.teachers.table import open_phases

    queries, store, config = _inputs(job)
    decoding = time.process_time()
    shards = [
        list(pictures_of(read_pictures(store, i, piece))) for i, piece in enumerate(cut(queries, config.shard_images))
    ]
    decoding = time.process_time() - decoding
    setup = TeacherSetup(job.locations.weights, "bench", config, "cpu", THREADS)
    phases = open_phases(setup)
    segment_shard(phases, setup, [Picture(np.zeros_like(shards[0][0].image), "", shards[0][0].queries)])
    wall, cpu = time.perf_counter(), time.process_time()
    for shard in shards:
        found: list[list[Any]] = [[] for _ in shard]
        for phase in phases:
            found, _ = phase(shard, found)
    images = sum(map(len, shards))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"images": images / wall, "cpu": cpu / images, "decoding": decoding / images}


def of_script(job: JobSpec, images: int) -> dict[str, float]:
    """The demos' loop over rows; the models are loaded once and the pictures are decoded before."""
    import numpy as np
    import torch
    from segment_anything import SamPredictor
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    from model.images import decode_image
    from model.miniature.florence import TASK
    from model.miniature.sam import load_sam

    queries, store, config = _inputs(job)
    rows = queries.slice(0, images * len(TEXTS)).to_pylist()
    pictures = {row["image"]: decode_image(store.read_checked(row["image"], row["image_sha256"])) for row in rows}
    processor = AutoProcessor.from_pretrained(job.locations.weights["florence"])
    florence = Florence2ForConditionalGeneration.from_pretrained(job.locations.weights["florence"]).eval()
    predictor = SamPredictor(load_sam(Path(job.locations.weights["sam"])))

    @torch.inference_mode()
    def one(row: dict[str, Any]) -> int:
        image = pictures[row["image"]]
        inputs = processor(text=TASK + row["query"], images=image, return_tensors="pt")
        tokens = florence.generate(
            **inputs, max_new_tokens=config.max_new_tokens, num_beams=config.beams, do_sample=False
        )
        text = processor.batch_decode(tokens, skip_special_tokens=False)[0]
        answer = processor.post_process_generation(text, task=TASK, image_size=image.size)[TASK]
        polygon = np.array(answer["polygons"][0][0]).reshape(-1, 2)  # the demos take the first
        predictor.set_image(np.asarray(image))
        box = np.concatenate([polygon.min(0), polygon.max(0)])
        masks, _, _ = predictor.predict(box=box, multimask_output=False)
        return int(masks.sum())

    one(rows[0])
    wall, cpu = time.perf_counter(), time.process_time()
    for row in rows:
        one(row)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"images": len(pictures) / wall, "cpu": cpu / len(pictures)}


def _inputs(job: JobSpec) -> tuple[Any, Any, TeacherConfig]:
    import torch

    from pipeline.artifacts.store import ArtifactStore
    from pipeline.masks.parts import read_parts
    from pipeline.sources.images.store import ImageStore

    torch.set_num_threads(THREADS)
    artifact = ArtifactStore(job.locations.root).require(job.inputs["subset"])
    source = job.locations.source(job.ref.name)
    images = ImageStore(source.images)  # type: ignore[union-attr]
    return read_parts(artifact.local(), QUERIES, "queries"), images, TeacherConfig(**job.spec.params["teacher"])


def of_pipeline(dataset: Dataset, job: JobSpec, folder: Path, decoding: float) -> Run:
    """The step as Ray runs it. decoding: CPU-seconds an image that `cpu` does not count."""
    spec = folder / f"{job.ref.id}.json"
    spec.write_text(job.model_dump_json())
    submitted = time.time()
    command = [sys.executable, "-m", "pipeline", "run", str(spec)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process, ProcessTree(process.pid) as tree:
        process.wait()
    if process.returncode:
        raise SystemExit(f"the step failed with {process.returncode}; its error is above")
    shards = Path(shards_of(job).path("part-00000-of-00001.parquet")).parent
    ends = sorted(file.stat().st_mtime for file in shards.glob("part-*.parquet"))
    size = job.spec.params["teacher"]["shard_images"]
    images, seconds = size * (len(ends) - 1), ends[-1] - ends[0]
    used = tree.cpu(ends[0], ends[-1])
    for name, cpu in sorted(used.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"  {1000 * cpu / images:.1f} CPU-ms an image: {name}", flush=True)
    others = sum(cpu for name, cpu in used.items() if ACTOR not in name)
    return Run(
        images / seconds,
        sum(used.values()) / images - decoding,
        ends[0] - submitted - seconds / (len(ends) - 1),
        others / images - decoding,
    )


def in_child(way: str, spec: Path, images: int) -> dict[str, float]:
    """Run another way in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        "masks",
        "--child",
        way,
        "--job",
        str(spec),
        "--images",
        str(images),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def import_seconds() -> float:
    """Time in which a new process imports the teachers and all that they need."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - start


def compare(images: int, shard: int, rounds: int, script_images: int) -> int:
    """Print the figures of the ways; returns 1 if a goal is missed."""
    from tests.model.teachers.fixtures_mid_teachers import write_mid_florence, write_mid_sam

    teacher = TeacherConfig(max_new_tokens=TOKENS, shard_images=shard)
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-masks-") as name:
        folder = Path(name)
        dataset = make_rows(folder, images)
        florence, sam = write_mid_florence(folder / "florence", TOKENS), write_mid_sam(folder / "sam")
        spec = folder / "job.json"
        spec.write_text(dataset.segment_job(florence, sam, teacher).model_dump_json())
        for turn in range(rounds):
            before = in_child("alone", spec, images)
            through = of_pipeline(
                dataset, dataset.segment_job(florence, sam, teacher, turn + 1), folder, before["decoding"]
            )
            after = in_child("alone", spec, images)
            script = in_child("script", spec, script_images)
            alone = {key: (before[key] + after[key]) / 2 for key in before}
            runs.append(
                {
                    "masks.efficiency": through.images / alone["images"],
                    "masks.overhead_ms": 1000 * (through.cpu - alone["cpu"]),
                    "masks.overhead_ms_beside_actors": 1000 * through.others,
                    "masks.vs_script": through.images / script["images"],
                    "masks.startup_seconds": through.startup,
                    "masks.import_seconds": import_seconds(),
                    "pipeline images/s": through.images,
                    "alone images/s": alone["images"],
                    "script images/s": script["images"],
                    "alone CPU-ms an image": 1000 * alone["cpu"],
                    "decoding CPU-ms an image": 1000 * alone["decoding"],
                }
            )
            print(f"turn {turn}: {json.dumps({key: round(value, 3) for key, value in runs[-1].items()})}", flush=True)
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(f"{images} images, {len(TEXTS)} texts each, {TOKENS} tokens a text, {usable_cpus()} CPUs, {THREADS} thread")
    for key, value in middle.items():
        print(f"{key} {value:.3f}")
    missed = middle["masks.efficiency"] < LEAST_EFFICIENCY or middle["masks.overhead_ms"] > MOST_OVERHEAD_MS
    return int(missed or middle["masks.vs_script"] < LEAST_VS_SCRIPT)


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench masks", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="images of a run (64)")
    parser.add_argument("--shard", type=int, default=8, help="images of a shard (8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the three ways (3)")
    parser.add_argument("--script-images", type=int, default=8, help="images of the script's run (8)")
    parser.add_argument("--soak", type=int, metavar="ROWS", help="run that many rows and sample memory instead")
    parser.add_argument("--teacher", choices=["florence_sam", "truth"], default="florence_sam", help="of the long run")
    parser.add_argument("--child", choices=["alone", "script"], help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        job = JobSpec.model_validate_json(options.job.read_text())
        print(json.dumps(of_alone(job) if options.child == "alone" else of_script(job, options.images)))
        return 0
    if options.soak:
        from tests.pipeline.masks.fixtures_soak import soak

        return soak(options.soak, options.teacher)
    return compare(options.images, options.shard, options.rounds, options.script_images)
