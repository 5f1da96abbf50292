"""Images decoded and resized to 768 px by the whole loader, against the library's own limit and against plain PyTorch.

Run: `python -m tests.bench loader`. Three ways over the same photographs, on all usable cores:

    loader     pack shards -> rows by byte range -> loader processes -> batches of uint8 pixels (pipeline.training.data)
    limit      the decode and resize calls of PIL alone, on bytes in memory, in as many processes
    pil        torch's DataLoader with as many processes over loose files: PIL opens, converts and resizes each, with
               torchvision's to_tensor and normalize

The photographs are made on the fly as JPEGs of quality 90, from 1024 x 768 to 3000 x 2000 pixels, like a camera's:
detail of all sizes, and noise. The ways take turns, so that a busy machine slows all alike. Processes are started and
warmed before the clock starts. Figures are medians over the turns:

    loader.of_limit    images/s of the loader over those of the limit
    loader.vs_pil      images/s of the loader over those of plain PyTorch
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional

from model.agevlm.image_processing_agevlm import CLIP_MEAN, CLIP_STD, AgeVlmImageProcessor
from model.agevlm.letterbox import fit
from pipeline.compute.resources import usable_cpus
from pipeline.packing.groups import PackedRow, write_rows
from pipeline.schemas import part_name
from pipeline.training.data.batches import Collator
from pipeline.training.data.index import PackIndex
from pipeline.training.data.loader import PRELOADED, loaded
from pipeline.training.data.order import SampleOrder
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.pack_reader import PackReader
from pipeline.training.data.pictures import KEPT_BYTES, LEAST_KEPT

LEAST_OF_LIMIT, LEAST_VS_PIL = 0.9, 2.0
SIDE, BATCH, AHEAD = 768, 4, 2
SIZES = ((768, 1024), (1200, 1600), (1365, 2048), (1536, 2048), (2000, 3000))
"""Height and width."""
PHOTOS = 40


def photograph(seed: int, height: int, width: int) -> bytes:
    """A JPEG with detail of all sizes, as photographs have, and a sensor's noise."""
    draw = np.random.default_rng(seed)
    values = 128 + draw.normal(0, 4, (height, width, 1)).astype(np.float32).repeat(3, axis=2)
    for scale in (4, 16, 64, 256):
        coarse = draw.normal(0, 40, (3, height // scale + 2, width // scale + 2)).astype(np.float32)
        bands = [Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC) for band in coarse]
        values += np.stack([np.asarray(band) for band in bands], axis=-1) * (scale / 256) ** 0.3
    sink = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def write_files(folder: Path, photos: Sequence[bytes]) -> None:
    """The photographs as loose files and as a pack of four shards."""
    (folder / "loose").mkdir()
    (folder / "pack").mkdir()
    for number, photo in enumerate(photos):
        (folder / "loose" / f"{number:05}.jpg").write_bytes(photo)
    for shard in range(4):
        rows = [
            PackedRow(
                sample_id=f"s{number}",
                image=str(number),
                image_sha256=hashlib.sha256(photos[number]).hexdigest(),
                tokens=np.ones((3, 64), dtype=np.int32),
                target=np.ones(64, dtype=bool),
                turns=np.array([[0, 0, 8, 9, 30]], dtype=np.int32),
            )
            for number in range(shard, len(photos), 4)
        ]
        write_rows(folder / "pack" / part_name(shard, 4), rows, 8, lambda row: photos[int(row.image or 0)])


def of_loader(folder: Path, processes: int) -> Iterator[int]:
    """Endless: the images of each batch of the loader."""
    index = PackIndex.read(PackFiles.local(folder / "pack"))
    rows = [np.arange(index.shard_rows(shard)) for shard in range(len(index))]
    order = SampleOrder(rows, seed=0, epochs=10_000, global_batch=BATCH)
    collate = Collator(AgeVlmImageProcessor(SIDE), pad_id=0)
    assert SIDE * SIDE * 3 * LEAST_KEPT > KEPT_BYTES  # else the repeated photographs would come from memory
    for (batch,) in loaded(order, PackReader(index), collate, 0, 1, BATCH, 0, processes, AHEAD):
        yield batch.images


class Loose(Dataset[torch.Tensor]):
    """Loose files, as a tutorial of PyTorch reads them; squares of the same geometry as the loader's."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted((folder / "loose").iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        image = Image.open(self.files[number]).convert("RGB")
        place = fit(image.height, image.width, SIDE, 32)
        inner = image.resize((place.inner_width, place.inner_height), Image.Resampling.BICUBIC)
        square = Image.new("RGB", (SIDE, SIDE), tuple(round(255 * mean) for mean in CLIP_MEAN))
        square.paste(inner, (place.left, place.top))
        return functional.normalize(functional.to_tensor(square), CLIP_MEAN, CLIP_STD)


def of_pil(folder: Path, processes: int) -> Iterator[int]:
    """Endless: the images of each batch of plain PyTorch."""
    data = Loose(folder)
    numbers = itertools.chain.from_iterable(range(len(data)) for _ in itertools.count())
    loader = DataLoader(
        data,
        batch_sampler=iter(lambda: list(itertools.islice(numbers, BATCH)), []),
        num_workers=processes,
        prefetch_factor=AHEAD,
        multiprocessing_context="forkserver",
    )
    for pixels in loader:
        yield len(pixels)


def limit(photo: bytes) -> int:
    """The calls that no loader can leave out."""
    image = Image.open(io.BytesIO(photo))
    image.load()
    place = fit(image.height, image.width, SIDE, 32)
    image.resize((place.inner_width, place.inner_height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return 1


def of_limit(pool: Any, photos: Sequence[bytes], processes: int) -> Iterator[int]:
    """Endless: the images of a batch, made by a pool that has as much work ahead as the loaders."""
    waiting = [pool.map_async(limit, photos[:BATCH]) for _ in range(processes * AHEAD)]
    for number in itertools.count(BATCH, BATCH):
        start = number % len(photos)
        waiting.append(pool.apply_async(_limits, (photos[start : start + BATCH],)))
        done = waiting.pop(0).get()
        yield done if isinstance(done, int) else sum(done)


def _limits(photos: Sequence[bytes]) -> int:
    return sum(map(limit, photos))


def speed(batches: Iterator[int], images: int) -> float:
    """Images per second of the next batches."""
    start, done = time.perf_counter(), 0
    while done < images:
        done += next(batches)
    return done / (time.perf_counter() - start)


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench loader", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of the three ways (5)")
    parser.add_argument("--processes", type=int, default=usable_cpus(), help="loader processes (the usable CPUs)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    photos = [photograph(seed, *SIZES[seed % len(SIZES)]) for seed in range(PHOTOS)]
    pa.set_cpu_count(1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.bench.loader"])
    with tempfile.TemporaryDirectory() as name, context.Pool(options.processes) as pool:
        folder = Path(name)
        write_files(folder, photos)
        ways: dict[str, Callable[[], Iterator[int]]] = {
            "limit": lambda: of_limit(pool, photos, options.processes),
            "loader": lambda: of_loader(folder, options.processes),
            "pil": lambda: of_pil(folder, options.processes),
        }
        turns: list[dict[str, float]] = []
        for turn in range(options.rounds):
            speeds = {}
            for way in list(ways)[turn % 3 :] + list(ways)[: turn % 3]:
                batches = ways[way]()
                # A whole round of work ahead is done before the clock starts, as it is when it stops.
                speed(batches, options.processes * AHEAD * BATCH)
                speeds[way] = speed(batches, PHOTOS)
                batches.close()  # type: ignore[attr-defined]
            turns.append(speeds)
    for way in ways:
        print(f"{way} {statistics.median(turn[way] for turn in turns):.1f} images/s")
    of = statistics.median(turn["loader"] / turn["limit"] for turn in turns)
    versus = statistics.median(turn["loader"] / turn["pil"] for turn in turns)
    print(f"{sum(map(len, photos)) / len(photos) / 1000:.0f} KB a photograph, {options.processes} processes")
    print(f"loader.of_limit {of:.3f}")
    print(f"loader.vs_pil {versus:.3f}")
    return int(of < LEAST_OF_LIMIT or versus < LEAST_VS_PIL)
