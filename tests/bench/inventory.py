"""Reading Cambrian's records against other readers of JSON Lines, and the memory of the whole step inventory.

Run: `python -m tests.bench inventory`. 1,000,000 records of Cambrian's shape are written first, which is not measured.
Then each way reads them with two processes or threads, in turn, and writes the same columns to Parquet: an id (SHA-256
of image and conversation), the given id, the image's path and the conversation.

    ours      the step's own tasks (`pipeline.inventory.reading`): also checks every record, cleans texts, counts what
              was changed, writes its work files for later tasks, and commits with checksums
    duckdb    read_json, sha256, COPY TO (FORMAT parquet)
    datasets  load_dataset("json"), map with hashlib, to_parquet

    inventory.vs_datasets  time of datasets / ours; inventory.vs_duckdb likewise
    inventory.rss_growth   largest memory of the whole step, images too, at 2,000,000 records over that at 200,000

Times are medians, without the start of processes and imports, which is stated apart.
"""

import argparse
import hashlib
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.inventory.job import InventoryJob
from pipeline.inventory.reading import read_split
from pipeline.sources.config import CambrianSource
from pipeline.sources.table import DataSet
from tests.pipeline.fixtures_measured_step import measured, step_in_child
from tests.pipeline.sources.fixtures_pictures import encoded, halves

LEAST = {"inventory.vs_datasets": 3.0, "inventory.vs_duckdb": 1.0}
MOST_GROWTH = 1.15
PROCESSES = 2
IMAGES = 2000  # different ones
TEXT = (
    "the man woman dog cat stands near large green tree building with red and blue sign under clear sky two people "
    "walking street image shows depicts background several small white"
)
WORDS = TEXT.split()
QUESTION = "Describe the image in detail."


def write_records(path: Path, count: int) -> None:
    """Records of Cambrian's shape: captions and chats, a fifth without an image; about 590 bytes each."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as stream:
        for number in range(count):
            accent = " near a caf\u00e9" if number % 20 == 0 else ""
            answer = " ".join(rng.choices(WORDS, k=rng.randint(30, 120))).capitalize() + f"{accent}."
            image = None if number % 5 == 4 else f"./coco/train2017/{number % IMAGES:012d}.jpg"
            first = QUESTION if image is None else f"<image>\n{QUESTION}" if number % 2 else f"{QUESTION}\n<image>"
            turns = [(first, answer)]
            if number % 4 == 0:
                turns.append(("What colour is the tree?", 'It is "green".'))
            said = [{"from": r, "value": v} for turn in turns for r, v in zip(("human", "gpt"), turn, strict=True)]
            record: dict[str, Any] = {"id": f"{number:012d}"} | ({} if image is None else {"image": image})
            stream.write(json.dumps(record | {"conversations": said}, ensure_ascii=False) + "\n")


def write_images(folder: Path) -> None:
    """The images that the records name."""
    (folder / "coco" / "train2017").mkdir(parents=True)
    content = encoded(halves(32, 32), "JPEG")
    for number in range(IMAGES):
        (folder / "coco" / "train2017" / f"{number:012d}.jpg").write_bytes(content)


def ours(path: Path, out: Path) -> float:
    """Seconds of the reading tasks of the step, on two processes."""
    source = CambrianSource(annotations=str(path), images=str(path.parent))
    store = ArtifactStore(str(out))
    shards = Shards(store, "artifact", "bench")
    job = InventoryJob(
        dataset=DataSet(source, out),
        work=Shards(store, "work", "bench"),
        shards=shards,
        buckets=32,
        threads=1,
        knows_truth=False,
        unit="line",
        frame="upright",
    )
    splits = job.dataset.open().splits()
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        begun = time.perf_counter()
        list(pool.map(_warm, range(PROCESSES)))
        start = time.perf_counter()
        entries = sum(seal.rows for seal in pool.map(read_split, [job] * len(splits), splits, [None] * len(splits)))
        seconds = time.perf_counter() - start
    print(f"ours: {entries} records in {seconds:.2f} s; start of processes {start - begun:.2f} s", flush=True)
    return seconds


def _warm(_: int) -> None:
    """Import what the tasks need, in each process: a task of a moment, so that none gets two."""
    import pandas  # noqa: F401  # pyarrow imports it with the first array

    time.sleep(0.3)


def duckdb_way(path: Path, out: Path) -> float:
    """Seconds of DuckDB."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"set threads = {PROCESSES}")
    columns = "{id: 'VARCHAR', image: 'VARCHAR', conversations: 'STRUCT(\"from\" VARCHAR, \"value\" VARCHAR)[]'}"
    start = time.perf_counter()
    connection.execute(
        f"copy (select sha256(concat(to_json(conversations), image)) as sample_id, id, image, conversations from "
        f"read_json('{path}', format = 'newline_delimited', columns = {columns})) to '{out}/duckdb.parquet' "
        "(format parquet)"
    )
    seconds = time.perf_counter() - start
    print(f"duckdb: {seconds:.2f} s", flush=True)
    return seconds


def datasets_way(path: Path, out: Path) -> float:
    """Seconds of Hugging Face datasets."""
    import datasets

    datasets.disable_progress_bars()
    start = time.perf_counter()
    found = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(out), num_proc=1)
    hashed = found.map(_hashes, batched=True, num_proc=PROCESSES)
    hashed.to_parquet(f"{out}/datasets.parquet")
    seconds = time.perf_counter() - start
    print(f"datasets: {seconds:.2f} s", flush=True)
    return seconds


def _hashes(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
    pairs = zip(batch["conversations"], batch["image"], strict=True)
    return {"sample_id": [hashlib.sha256(json.dumps([said, image]).encode()).hexdigest() for said, image in pairs]}


WAYS: dict[str, Callable[[Path, Path], float]] = {"ours": ours, "duckdb": duckdb_way, "datasets": datasets_way}


def growth(records: int) -> float:
    """Largest memory of the whole step at `records` over that at a tenth of them."""
    sizes = []
    for count in (records // 10, records):
        with tempfile.TemporaryDirectory(prefix="bench-inventory-") as temporary:
            folder = Path(temporary)
            write_records(folder / "records.jsonl", count)
            write_images(folder / "images")
            source = CambrianSource(annotations=str(folder / "records.jsonl"), images=str(folder / "images"))
            params = {"source": {"kind": "cambrian"}, "limit": None, "fingerprint": "raw"}
            found = measured(folder, "inventory", "inventory", params, None, source=source)
        print(f"whole step: {count} records, {found.rss_gib * 1024:.0f} MiB, {found.seconds:.1f} s", flush=True)
        sizes.append(found.rss_gib)
    return sizes[1] / sizes[0]


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench inventory", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000, help="records that are read (default 1 million)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--growth-records", type=int, default=2_000_000, help="of the large case; 0 leaves it out")
    parser.add_argument("--child", metavar="JOB", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return step_in_child(Path(options.child))
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(prefix="bench-inventory-") as temporary:
        path = Path(temporary) / "records.jsonl"
        write_records(path, options.records)
        print(f"{options.records} records, {path.stat().st_size / 1e6:.0f} MB", flush=True)
        for _ in range(options.repeats):
            for name, way in WAYS.items():
                with tempfile.TemporaryDirectory(prefix="out-", dir=temporary) as out:
                    found[name].append(way(path, Path(out)))
    middle = {name: statistics.median(seconds) for name, seconds in found.items()}
    figures = {f"inventory.vs_{name}": middle[name] / middle["ours"] for name in ("datasets", "duckdb")}
    bad = [name for name, value in figures.items() if value < LEAST[name]]
    if options.growth_records:
        figures["inventory.rss_growth"] = growth(options.growth_records)
        bad += [name for name, value in figures.items() if name.endswith("growth") and value > MOST_GROWTH]
    for name, value in figures.items():
        print(f"{name} {value:.3f}")
    return int(bool(bad))
