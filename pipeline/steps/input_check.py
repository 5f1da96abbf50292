"""Checks that raw data and pretrained weights are still those that a step's id was made from.

Fingerprints are taken by the plan. The step may run hours later, and on another machine.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from model.errors import DataError
from pipeline.plan.fingerprints import Fingerprints
from pipeline.plan.job import JobSpec
from pipeline.plan.locations import Locations

RAW = "fingerprint"
"""Parameter with the fingerprint of the raw data set. The artifact has that data set's name."""
WEIGHTS = {"florence": "florence", "sam": "sam", "text": "text", "vision": "vision", "tokenizer": "text"}
"""Parameter with the fingerprint of weights -> role of those weights in the locations."""


def fingerprints_now(params: Iterable[str], locations: Locations, dataset: str) -> Iterator[tuple[str, str, str]]:
    """For each parameter that is a fingerprint: its name, 'data.NAME' or 'weights.ROLE', and the current fingerprint.

    Raises ConfigError or DataError if the data or weights are missing or cannot be read.
    """
    fingerprints = Fingerprints(Path(locations.scratch), planning=False)
    for name in params:
        if name == RAW:
            yield name, f"data.{dataset}", fingerprints.source(dataset, locations.source(dataset))
        elif name in WEIGHTS:
            role = WEIGHTS[name]
            yield name, f"weights.{role}", fingerprints.weights(role, locations.weights_of(role))


def check_planned(job: JobSpec, only: frozenset[str] | None = None) -> None:
    """Compare the fingerprints in a step's parameters (or in `only` some of them) with the current ones.

    A file is hashed again only if its size or times changed. Raises DataError if anything changed since planning.
    """
    planned = {k: v for k, v in job.spec.params.items() if v is not None and (only is None or k in only)}
    for name, what, now in fingerprints_now(planned, job.locations, job.ref.name):
        if now != planned[name]:
            raise DataError(
                f"{what} changed since the run was planned, so {job.ref} cannot be made from it: restore it, or run "
                "the recipe again, which plans with the current files"
            )
