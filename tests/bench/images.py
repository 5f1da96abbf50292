"""Checking and hashing JPEGs in place in a tar, against extracting the tar and opening the files one by one with PIL.

Run: `python -m tests.bench images`. Three ways over the same files:

    in place   each member read at its offset, checked (a file cut at 99 % is found) and hashed, on all usable cores
    extract    the tar extracted to a folder, each file opened with PIL, decoded and made upright RGB, in one loop
    limit      the decode library's part of "in place" alone, on bytes in memory, on the same cores

The cores are used as Ray uses them: by a process each, started beforehand. The pictures are 640 x 480 with 50 to 100 KB
each, made on the fly. The ways take turns, each run beside the one that it is compared with, so that a busy machine
slows both alike. Figures are medians of the ratios of neighbouring runs' seconds:

    images.vs_extract  extract / in place
    images.of_limit    limit / in place
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from model.errors import ImageError
from pipeline.compute.resources import usable_cpus
from pipeline.sources.picture_facts import picture_facts

LEAST_VS_EXTRACT, LEAST_OF_LIMIT = 2.0, 0.9
HEIGHT, WIDTH = 480, 640
PICTURES, DIFFERENT, IN_A_CHUNK = 2000, 50, 25
SHORT = 500  # pictures of a run beside the limit: the shorter the runs, the more alike the machine's state
CUT_EVERY = 500  # one file in so many is cut at 99 %, to see that it is found
Member = tuple[int, int]
"""Offset and size of a member, in bytes."""


def picture(seed: int) -> bytes:
    """A JPEG as a camera's: smooth areas, edges, and noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / draw.uniform(20, 90) + y / draw.uniform(20, 90) + draw.uniform(0, 6)) for _ in range(3)]
    values = np.stack(waves, axis=-1) * 60 + 128
    for _ in range(12):
        top, left = draw.integers(0, HEIGHT), draw.integers(0, WIDTH)
        values[top : top + draw.integers(20, 200), left : left + draw.integers(20, 200)] += draw.uniform(-70, 70, 3)
    values += draw.normal(0, draw.uniform(5, 10), (HEIGHT, WIDTH, 1))
    sink = io.BytesIO()
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(sink, "JPEG", quality=int(draw.integers(80, 88)))
    return sink.getvalue()


def write_tar(path: Path, count: int) -> list[Member]:
    """A tar of `count` pictures; the members' places."""
    distinct = [picture(seed) for seed in range(DIFFERENT)]
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            data = distinct[number % DIFFERENT]
            data = data[: len(data) * 99 // 100] if number % CUT_EVERY == 0 else data
            data = data[:2] + b"\xff\xfe\x00\x06" + number.to_bytes(4, "big") + data[2:]  # a comment: no two are equal
            entry = tarfile.TarInfo(f"{number // 1000:04}/{number:08}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return [(member.offset_data, member.size) for member in tar.getmembers()]


class Files:
    """The tar and its members; a process that is forked has them too."""

    def __init__(self, path: Path, members: Sequence[Member]) -> None:
        self.path, self.members = path, members
        self.file = os.open(path, os.O_RDONLY)
        self.contents = [os.pread(self.file, size, offset) for offset, size in members]

    def in_place(self, numbers: Sequence[int]) -> int:
        """Read, check and hash members. Returns how many are whole."""
        whole = 0
        for number in numbers:
            offset, size = self.members[number]
            try:
                picture_facts(os.pread(self.file, size, offset))
                whole += 1
            except ImageError:
                continue
        return whole

    def limit(self, numbers: Sequence[int]) -> int:
        """The same decode calls alone, on bytes in memory. Returns how many are whole."""
        whole = 0
        for number in numbers:
            try:
                simplejpeg.decode_jpeg(self.contents[number], "GRAY", min_height=1, min_width=1, min_factor=8)
                whole += 1
            except ValueError:
                continue
        return whole

    def extract(self) -> int:
        """Extract the tar and open its files one by one. Returns how many are whole."""
        whole = 0
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            with tarfile.open(self.path) as tar:
                tar.extractall(folder, filter="data")
            for file in sorted(Path(folder).rglob("*.jpg")):
                try:
                    with Image.open(file) as image:
                        image.load()
                        ImageOps.exif_transpose(image).convert("RGB")
                    whole += 1
                except OSError:
                    continue
        return whole


def timed(way: Callable[[], int], expected: int) -> float:
    """Seconds of one run, which must find so many files whole."""
    start = time.perf_counter()
    found = way()
    seconds = time.perf_counter() - start
    if found != expected:
        raise SystemExit(f"{found} pictures were found whole, not {expected}")
    return seconds


def compared(
    other: Callable[[], int], own: Callable[[], int], pictures: int, rounds: int
) -> tuple[float, float, float]:
    """Median seconds of `other` and of `own` for so many pictures, and the median ratio; they take turns."""
    expected = pictures - pictures // CUT_EVERY
    seconds = []
    for turn in range(rounds):
        if turn % 2:
            first = timed(other, expected)
            seconds.append((first, timed(own, expected)))
        else:
            second = timed(own, expected)
            seconds.append((timed(other, expected), second))
    others, owns = zip(*seconds, strict=True)
    return statistics.median(others), statistics.median(owns), statistics.median(a / b for a, b in seconds)


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench images", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="extractions; the limit is measured 8 times as often (5)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.tar"
        files = Files(path, write_tar(path, PICTURES))
        with multiprocessing.get_context("fork").Pool(usable_cpus(), _adopt, [files]) as pool:

            def on_all_cores(way: str, pictures: int) -> int:
                chunks = [(way, range(start, start + IN_A_CHUNK)) for start in range(0, pictures, IN_A_CHUNK)]
                return sum(pool.imap_unordered(_run, chunks))

            on_all_cores("in_place", PICTURES)  # warms the processes and the file cache
            limit, own, of_limit = compared(
                lambda: on_all_cores("limit", SHORT), lambda: on_all_cores("in_place", SHORT), SHORT, 8 * options.rounds
            )
            extract, _, vs_extract = compared(
                files.extract, lambda: on_all_cores("in_place", PICTURES), PICTURES, options.rounds
            )
    print(f"{statistics.mean(size for _, size in files.members) / 1000:.0f} KB a picture, {usable_cpus()} cores")
    print(f"in place {1e6 * own / SHORT:.0f} us a picture, limit {1e6 * limit / SHORT:.0f} us, ", end="")
    print(f"extract {1e6 * extract / PICTURES:.0f} us")
    print(f"images.vs_extract {vs_extract:.3f}")
    print(f"images.of_limit {of_limit:.3f}")
    return int(vs_extract < LEAST_VS_EXTRACT or of_limit < LEAST_OF_LIMIT)


_files: list[Files] = []  # of a process of the pool


def _adopt(files: Files) -> None:
    _files.append(files)


def _run(work: tuple[str, range]) -> int:
    way, numbers = work
    return int(getattr(_files[0], way)(numbers))
