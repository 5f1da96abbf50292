"""A long run of segment and masks on Ray, with the memory of all its processes sampled. For the benchmark `masks`."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.plan.job import JobSpec
from tests.model.teachers.fixtures_tiny_teachers import LOCATIONS, write_florence, write_sam
from tests.pipeline.masks.fixtures_dataset import make_dataset
from tests.pipeline.masks.fixtures_process_tree import ProcessTree
from tests.pipeline.steps.fixtures_single_step import shards_of

MOST_GROWTH_MIB = 64.0
"""Growth of a process's memory between the first quarter of the shards and the end."""
ROWS_PER_SCENE = 3  # on average: one to three objects, and an absent one
STEP_PERIOD = 0.1  # seconds: masks takes a few
SHARD_IMAGES = 32


def soak(rows: int, kind: str) -> int:
    """Print the figures; returns 1 if memory grows by more than MOST_GROWTH_MIB."""
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as name:
        folder = Path(name)
        dataset = make_dataset(folder, -(-rows // ROWS_PER_SCENE))
        florence, sam = write_florence(folder / "florence", talkative=True), write_sam(folder / "sam")
        teacher = TeacherConfig(kind=kind, max_new_tokens=LOCATIONS, shard_images=SHARD_IMAGES)
        job = dataset.segment_job(florence, sam, teacher)
        start = time.time()
        tree = _run(job, folder, 1.0)
        seconds = time.time() - start
        ends = sorted(file.stat().st_mtime for file in Path(shards_of(job).path("x")).parent.glob("part-*.parquet"))
        found = {
            f"segment, {who}": _growth(tree.rss(name_), ends[len(ends) // 4], ends[-1])
            for who, name_ in (("driver", "driver"), ("actors", "MapWorker"), ("all processes", ""))
        }
        segments = dataset.store.require(job.ref)
        own = _run(dataset.masks_job(segments, MaskGates(min_area=0)), folder, STEP_PERIOD)
        peak = max(rss for _, rss in own.rss("driver")) / 2**20
        counts = segments.manifest.counts
    print(f"{counts.rows_in} rows in {len(ends)} shards, teacher {kind}: {seconds:.0f} s, {counts.rows_out} answered")
    for who, (before, after) in found.items():
        print(f"masks.soak {who}: {before:.0f} MiB after a quarter of the shards, at most {after:.0f} MiB later")
    print(f"masks.soak masks, driver: at most {peak:.0f} MiB, of which the truth is a part")
    worst = max(after - before for who, (before, after) in found.items())
    print(f"masks.soak_growth_mib {worst:.1f}")
    return int(worst > MOST_GROWTH_MIB)


def _run(job: JobSpec, folder: Path, period: float) -> ProcessTree:
    spec = folder / f"{job.ref.id}.json"
    spec.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "pipeline", "run", str(spec)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process, ProcessTree(process.pid, period) as tree:
        process.wait()
    if process.returncode:
        raise SystemExit(f"{job.key} failed with {process.returncode}; its error is above")
    return tree


def _growth(samples: list[tuple[float, int]], first: float, last: float) -> tuple[float, float]:
    """Largest memory up to a time, and after it; MiB."""
    before = max((rss for when, rss in samples if when <= first), default=0)
    after = max((rss for when, rss in samples if first < when <= last), default=before)
    return before / 2**20, after / 2**20
