"""The waiting of OpenMP threads, which torch computes with on a CPU."""

import os

SPINS = "GOMP_SPINCOUNT"
OWN_SETTINGS = (SPINS, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""Variables that say how OpenMP threads wait. If a user or a node sets one of them, it is kept."""


def wait_briefly() -> None:
    """Let OpenMP threads sleep soon while they wait for each other. Call this before torch is loaded.

    By default they keep their cores busy while they wait (GNU's library: 300,000 turns of a loop). If another process
    needs one of these cores, the thread that the others wait for does not run, and a step takes several times as long.
    No result depends on it. `python -m tests.bench busy` measures it; not waiting at all costs more on an idle machine.
    """
    if not any(name in os.environ for name in OWN_SETTINGS):
        os.environ[SPINS] = "1000"
