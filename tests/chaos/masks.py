"""The step segment, whose processes are killed (-9) at seeded random moments, makes the bytes of an undisturbed run.

Run: `make chaos-masks` or `python -m tests.chaos masks --kills 25 --seed 0`. The step is the driver `python -m pipeline
run` with a Ray session of its own, and the miniature teachers. Ray makes a killed actor or decoding worker again; after
a killed driver or head of Ray (raylet, gcs), the same command is run again. When a step ends before it had all kills,
another attempt of it follows. Then a full disk and a store that fails are tried, which count apart.

Prints one line per kill, the shards that were computed more than once, and at the end `kills N lost L duplicated D
changed C`: rows that are missing or twice, and shards with other bytes. Returns 1 unless these are 0, and each shard
that was computed again was in flight at a kill.
"""

import argparse
import hashlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.masks.config import TeacherConfig
from pipeline.plan.fingerprints import MINIATURE_FOLDERS, MINIATURE_WEIGHTS
from pipeline.plan.job import JobSpec
from tests.chaos.driver import Deal, Driver
from tests.chaos.masks_job import LOG
from tests.fixtures_faulty_store import FAULTS, SCHEME, fail, register
from tests.pipeline.masks.fixtures_dataset import Dataset, make_dataset

TARGETS = {
    "actor": "MapWorker",
    "decoder": "ReadShardSource",
    "driver": "",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
}
"""Target -> text in the command line of a descendant of the driver; '' is the driver itself."""
TEACHER = TeacherConfig(shard_images=2, max_new_tokens=64)
LONGEST_DELAY = 3.0  # seconds from the first shard after a start to the kill
EARLY = 0.2  # share of the kills while Ray and the actors start
SEARCH_SECONDS = 20.0  # until a process of the target is there, on a busy machine
IN_FLIGHT = 1  # shards that a teacher works on at once: one actor
OUTAGE = 60.0  # seconds
GRACE = 5.0  # seconds for the descendants of a dead driver to end
RAY = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
"""Settings of Ray: by default the driver and raylet wait a minute for a killed gcs, which never comes back here."""


@dataclass
class World:
    """A data set, and jobs of the step segment that differ in their attempt only."""

    folder: Path
    dataset: Dataset

    def job(self, attempt: int, root: str | None = None) -> JobSpec:
        """A job; `root`: another URL of the same store."""
        florence, sam = (MINIATURE_WEIGHTS / MINIATURE_FOLDERS[role] for role in ("florence", "sam"))
        job = self.dataset.segment_job(florence, sam, TEACHER, attempt)
        return (
            job
            if root is None
            else job.model_copy(update={"locations": job.locations.model_copy(update={"root": root})})
        )

    def driver(self, name: str, job: JobSpec) -> "Segment":
        """The driver of a job."""
        return Segment(self.folder, name, job)


class Segment(Driver):
    """The driver of the step, and what it has done."""

    def __init__(self, folder: Path, name: str, job: JobSpec) -> None:
        self.begun, self.faults = folder / f"{name}.begun", folder / f"{name}.faults"
        self.begun.touch()
        self._seals = folder / "store" / job.ref.path
        environment = {
            **os.environ,
            **RAY,
            LOG: str(self.begun),
            FAULTS: str(self.faults),
            "PYTHONPATH": os.pathsep.join([str(PROJECT / "tests" / "chaos" / "site"), str(PROJECT)]),
        }
        super().__init__(job, folder / f"{name}.log", TARGETS, ("-m", "tests.chaos.masks_job"), environment, GRACE)

    def sealed(self) -> int:
        """Shards that are committed."""
        return len(list(self._seals.glob("data-*/_seals/part-*.json")))

    def again(self) -> int:
        """Times that the teacher began a whole shard which it, or a process that died, had begun before."""
        lines = [line for line in self.begun.read_text().splitlines() if len(line.split()) == TEACHER.shard_images]
        return len(lines) - len(set(lines))


def result_of(artifact: Artifact) -> dict[str, str]:
    """Digest of each part and of the table of rejects."""
    files = [file for file in artifact.files if not file.startswith("provenance/")]
    return {file: hashlib.sha256(Path(artifact.path(file)).read_bytes()).hexdigest() for file in files}


def rows_of(artifact: Artifact) -> Counter[tuple[str, int]]:
    """The number of rows of each query in an artifact's parts."""
    found: Counter[tuple[str, int]] = Counter()
    for file in artifact.matching("part-"):
        table = pq.read_table(artifact.path(file), columns=["sample_id", "turn"])
        found.update(zip(table["sample_id"].to_pylist(), table["turn"].to_pylist(), strict=True))
    return found


class Tally:
    """The differences from the undisturbed artifact."""

    def __init__(self, expected: Artifact) -> None:
        self._bytes, self._rows = result_of(expected), rows_of(expected)
        self.lost = self.duplicated = self.changed = 0

    def add(self, artifact: Artifact) -> None:
        """Compare an artifact."""
        found, rows = result_of(artifact), rows_of(artifact)
        self.lost += (self._rows - rows).total()
        self.duplicated += (rows - self._rows).total()
        self.changed += sum(found.get(file) != self._bytes.get(file) for file in found.keys() | self._bytes.keys())

    @property
    def text(self) -> str:
        """'lost 0 duplicated 0 changed 0'."""
        return f"lost {self.lost} duplicated {self.duplicated} changed {self.changed}"


def disturb(driver: Segment, chance: random.Random, deal: Deal, kills: int) -> int:
    """Run the step to its end, with up to this many kills. Returns their number."""
    done = 0
    while not driver.published():
        if not driver.alive:
            driver.start()
        if done < kills:
            killed = _kill_once(driver, chance, deal.target)
            if killed:
                done += 1
                deal.hit()
                print(f"  kill {done}: {killed}", flush=True)
            else:
                deal.postpone()
        time.sleep(0.05)
    driver.end()
    return done


def _kill_once(driver: Segment, chance: random.Random, target: str) -> str | None:
    """Wait for a new shard, then for a random moment, and kill the target; None if it is not there.

    Decoding begins long before the first shard of a start, so a decoder is hit as soon as it is there.
    """
    before, started = driver.sealed(), time.monotonic()
    delay, early = chance.uniform(0, LONGEST_DELAY), chance.random() < EARLY
    if target == "decoder":
        delay, early = 0.0, True

    def over() -> bool:
        return not driver.alive or driver.published()

    while not early and not over() and driver.sealed() <= before:
        time.sleep(0.02)
    until = time.monotonic() + (3 * delay if early else delay)
    while not over() and time.monotonic() < until:
        time.sleep(0.01)
    until, found = time.monotonic() + SEARCH_SECONDS, None
    while not over() and found is None and time.monotonic() < until:
        found = driver.find(target)
        time.sleep(0.01)
    if over() or found is None:
        return None
    sealed = driver.sealed()
    with suppress(psutil.NoSuchProcess):
        found.kill()
        return f"{target} after {sealed} shards, {time.monotonic() - started:.1f} s after the last{' (early)' * early}"
    return None


def full_disk(driver: Segment) -> bool:
    """Fill the disk after the first shards. True if the step says so, and the next run goes on with its commits."""
    _to_first_shards(driver)
    fail(driver.faults, "full")
    _wait(driver)
    fail(driver.faults, "")
    told, before = "the disk is full" in driver.text(), driver.sealed()
    driver.start()
    _wait(driver)
    driver.end()
    print(f"full disk: told {told}, {before} shards kept, published {driver.published()}", flush=True)
    return told and before > 0 and driver.published()


def outage(driver: Segment) -> bool:
    """Let the store fail for a while. True if the same run of the step ends well, and said that it waited."""
    _to_first_shards(driver)
    fail(driver.faults, f"down {time.time() + OUTAGE}")
    _wait(driver)
    driver.end()
    told = "the store fails" in driver.text()
    print(f"store fails for {OUTAGE:.0f} s: told {told}, published {driver.published()} in 1 start", flush=True)
    return told and driver.published()


def _to_first_shards(driver: Segment) -> None:
    driver.start()
    while driver.alive and driver.sealed() < 2:
        time.sleep(0.05)


def _wait(driver: Segment) -> None:
    while driver.alive:
        driver.family()
        time.sleep(0.2)


def main(arguments: Sequence[str]) -> int:
    """Print the kills and the result; returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos masks", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25, help="kills in all (default 25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of targets and moments (default 0)")
    parser.add_argument("--images", type=int, default=120, help="images of the data set, two a shard (default 120)")
    parser.add_argument("--logs", type=Path, default=None, help="folder that is kept; by default a temporary one")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chance, started = random.Random(options.seed), time.monotonic()
    deal = Deal(chance, TARGETS)
    register()
    with tempfile.TemporaryDirectory(prefix="agevlm-chaos-") as name:
        folder = options.logs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder, make_dataset(folder, options.images))
        store: ArtifactStore = world.dataset.store
        first = world.driver("undisturbed", world.job(0))
        first.start()
        _wait(first)
        first.end()
        if not first.published():
            print(f"the undisturbed run failed:\n{first.text()[-3000:]}", file=sys.stderr)
            return 1
        tally = Tally(store.require(first.job.ref))
        print(f"undisturbed: {first.sealed()} shards, {time.monotonic() - started:.0f} s", flush=True)
        kills = again = attempt = 0
        while kills < options.kills:  # the step may end before it had all its kills; then it is made again
            attempt += 1
            driver = world.driver(f"disturbed-{attempt}", world.job(attempt))
            done = disturb(driver, chance, deal, options.kills - kills)
            tally.add(store.require(driver.job.ref))
            kills, again = kills + done, again + driver.again()
            print(
                f"attempt {attempt}: {done} kills, {driver.starts} starts, {driver.again()} shards computed again; "
                f"{tally.text}",
                flush=True,
            )
        faulty = f"{SCHEME}{store.root}"
        sound = True
        for number, disturbance in enumerate((full_disk, outage), attempt + 1):
            driver = world.driver(disturbance.__name__, world.job(number, faulty))
            sound &= disturbance(driver)
            if driver.published():
                tally.add(store.require(driver.job.ref))
    print(f"disturbances of the store: {'2 passed' if sound else 'FAILED'}")
    print("hit: " + ", ".join(f"{target} {deal.hits[target]}" for target in TARGETS))
    print(f"shards computed again {again}, in flight at kills at most {IN_FLIGHT * kills}")
    print(f"chaos.seconds {time.monotonic() - started:.0f}")
    print(f"kills {kills} {tally.text}")
    return int(bool(tally.lost or tally.duplicated or tally.changed or again > IN_FLIGHT * kills or not sound))
