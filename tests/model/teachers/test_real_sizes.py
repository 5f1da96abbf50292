"""Florence-2-base and SAM ViT-B at their published sizes, with random weights: they load and answer in fp32 and bf16.

Run with -s to see seconds and memory. fp16 takes more than five minutes on a CPU without fp16 arithmetic, so only the
miniature teachers are tested in it (test_florence.py, test_sam_loading.py).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model.teachers.weights.identify import identify
from tests.model.teachers.fixtures_real_sizes import write_florence_base, write_sam_vit_b

pytestmark = [pytest.mark.system, pytest.mark.timeout(1000)]

ROWS = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from model.teachers.finding import Finder
from model.teachers.florence import FlorenceSettings, FlorenceTeacher
from model.teachers.grounding import Grounding
from model.teachers.sam import SamTeacher
from model.teachers.segmenting import Segmenter
folder, sam_file, precision = sys.argv[1:]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

found = {"imports_mb": peak()}
start = time.perf_counter()
florence = FlorenceTeacher.load(Path(folder), FlorenceSettings(max_new_tokens=12), precision=precision)
found["florence_load_s"] = time.perf_counter() - start
found["florence_mb"] = peak()
start = time.perf_counter()
sam = SamTeacher.load(sam_file, precision=precision)
found["sam_load_s"] = time.perf_counter() - start
found["both_mb"] = peak()
found["parameters"] = [sum(p.numel() for p in model.parameters()) for model in (florence.model, sam.sam)]
pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
start = time.perf_counter()
evidence = Grounding(Finder(florence), Segmenter(sam)).ground(pixels, ["a cat", "the dog"])
found["rows_s"] = time.perf_counter() - start
found["peak_mb"] = peak()
found["instances"] = [len(row.instances) for row in evidence]
found["scores"] = [row.polygon_score for row in evidence]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of Florence-2-base, file of SAM ViT-B."""
    root = tmp_path_factory.mktemp("real")
    return write_florence_base(root / "florence"), write_sam_vit_b(root / "sam_vit_b.pth")


def test_they_are_told_in_a_second(teachers: tuple[Path, Path]) -> None:
    started = time.process_time()
    assert [identify(role, path).name for role, path in zip(("florence", "sam"), teachers, strict=True)] == [
        "Florence-2",
        "vit_b",
    ]
    print(f"\nboth told in {time.process_time() - started:.3f} CPU-s")
    assert time.process_time() - started < 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_they_answer(teachers: tuple[Path, Path], precision: str) -> None:
    command = [sys.executable, "-c", ROWS, *map(str, teachers), precision]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(f"\n{precision}: {found}")
    assert found["parameters"][0] == pytest.approx(0.23e9, rel=0.02)
    assert found["parameters"][1] == pytest.approx(93.7e6, rel=0.01)
    assert all(0 < score <= 1 for score in found["scores"])
    assert found["instances"] == [1, 1], "every answer is a polygon, and SAM has a mask for it"
    assert found["peak_mb"] < 6000
