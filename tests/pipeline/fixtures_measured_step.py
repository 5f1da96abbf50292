"""Runs one step in a process of its own, for benchmarks, and measures its time and memory."""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.store import Artifact
from pipeline.compute.resources import usable_cpus
from pipeline.plan.job import JobSpec
from pipeline.sources.config import Source
from pipeline.steps.runner import run_job
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian

NEVER = 1 << 60  # records from which a step uses Ray


@dataclass(frozen=True)
class Measured:
    """The figures of one run."""

    seconds: float
    """Time of the step."""
    start_seconds: float
    """Time in which Python started and imported."""
    rss_gib: float
    """Largest resident memory of the process."""


def measured(
    folder: Path,
    bench: str,
    step: str,
    params: dict[str, Any],
    inventory: Artifact | None,
    weights: dict[str, str] | None = None,
    source: Source | None = None,
) -> Measured:
    """Run a step on an inventory in `folder / 'store'`, or on raw data, in a child `python -m tests.bench`."""
    workshop = Workshop(folder, source or cambrian(folder, []), weights or {})
    job = workshop.job(step, params, **({} if inventory is None else {"inventory": inventory}))
    job = job.model_copy(update={"resources": job.resources.model_copy(update={"workers": usable_cpus()})})
    (folder / "job.json").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "tests.bench", bench, "--child", str(folder / "job.json")]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - start
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured(found["seconds"], whole - found["seconds"], found["rss_gib"])


def step_in_child(job_file: Path) -> int:
    """The child: run the job with all its work in this process, and print the figures as JSON."""
    import pipeline.steps.inventory as inventory
    import pipeline.steps.pack as pack

    pack.RAY_FROM = inventory.RAY_FROM = NEVER
    job = JobSpec.model_validate_json(job_file.read_text())
    start = time.perf_counter()
    run_job(job)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "rss_gib": _largest_memory() / 1024.0**3}))
    return 0


def _largest_memory() -> float:
    """Largest resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory too, which a child has until it starts Python
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # macOS counts in bytes
