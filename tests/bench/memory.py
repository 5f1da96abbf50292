"""Memory of steps at 2,000,000 records over that at 200,000: it does not grow with the data.

Run: `python -m tests.bench memory`. Each case is a process of its own. Its largest memory is measured, with Python and
its libraries. All work of a step is done in that process, by threads and not by Ray's tasks.

    subset.rss_growth      a choice of 20,000 records
    subset_all.rss_growth  all records with an image
    pack.rss_growth        all records, text only, of which every 50th is rejected
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.store import ArtifactStore
from tests.pipeline.fixtures_inventories import synthetic_inventory
from tests.pipeline.fixtures_measured_step import measured, step_in_child
from tests.pipeline.packing.fixtures_tokenizer import CHATML, write_backbone

MOST_GROWTH = 1.15
TIMES = 10  # records of the large case over those of the small one
SUBSET: dict[str, Any] = {"query": "caption", "turns": "one", "seed": 0}
PACK: dict[str, Any] = {"pack": {}, "tokenizer": "weights", "seed": 0}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "subset": ("subset", {"size": 20_000, **SUBSET}, {}),
    "subset_all": ("subset", {"size": None, **SUBSET}, {}),
    "pack": ("pack", PACK, {"text_only_every": 1, "flawed_every": 50}),
}
"""Name of a case -> step, parameters, and what its inventory is like."""


def growth(name: str, records: int) -> float:
    """Largest memory at `records` over that at a tenth of them."""
    step, params, kind = CASES[name]
    sizes = []
    for rows in (records // TIMES, records):
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as temporary:
            folder = Path(temporary)
            weights = write_backbone(folder / "backbone", CHATML)
            (weights / "model.safetensors").write_bytes(b"")
            inventory = synthetic_inventory(ArtifactStore(f"{folder}/store"), rows, **kind)
            found = measured(folder, "memory", step, params, inventory, {"text": str(weights)})
        print(f"{name}: {rows} records, {found.rss_gib * 1024:.0f} MiB, {found.seconds:.1f} s", flush=True)
        sizes.append(found.rss_gib)
    return sizes[1] / sizes[0]


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench memory", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2_000_000, help="records of the large case (default 2 million)")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="only these cases")
    parser.add_argument("--child", metavar="JOB", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return step_in_child(Path(options.child))
    found = {name: growth(name, options.records) for name in options.case or CASES}
    for name, value in found.items():
        print(f"{name}.rss_growth {value:.3f}")
    return int(any(value > MOST_GROWTH for value in found.values()))
