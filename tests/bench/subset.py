"""Choosing a subset from the records of an inventory: time and memory of the whole step.

Run: `python -m tests.bench subset`. An inventory of 10,000,000 small records is written first, which is not measured
(its time is printed). Then the step `subset` runs in a process of its own, from the start of its code to the published
artifact: ids are hashed, 150,000 are chosen, their texts are cut out, sorted by image and written.

    subset.seconds  time of the step, without the start of Python
    subset.rss_gib  largest memory of the process, with Python and its libraries
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts.store import ArtifactStore
from tests.pipeline.fixtures_inventories import synthetic_inventory
from tests.pipeline.fixtures_measured_step import measured, step_in_child

MOST_SECONDS, MOST_GIB = 60.0, 1.0


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench subset", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000_000, help="records of the inventory (default 10 million)")
    parser.add_argument("--size", type=int, default=150_000, help="records of the subset (default 150,000)")
    parser.add_argument("--child", metavar="JOB", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return step_in_child(Path(options.child))
    with tempfile.TemporaryDirectory(prefix="bench-subset-") as folder:
        start = time.perf_counter()
        inventory = synthetic_inventory(ArtifactStore(f"{folder}/store"), options.records)
        print(
            f"{options.records} records were written in {time.perf_counter() - start:.1f} s (not measured)", flush=True
        )
        params = {"size": options.size, "query": "caption", "turns": "one", "seed": 0}
        found = measured(Path(folder), "subset", "subset", params, inventory)
    print(f"subset.seconds {found.seconds:.2f}")
    print(f"subset.rss_gib {found.rss_gib:.3f}")
    print(f"subset.start_seconds {found.start_seconds:.2f}")
    return int(found.seconds > MOST_SECONDS or found.rss_gib > MOST_GIB)
