"""Checks that raw data and pretrained weights are still those that a step's id was made from.

Fingerprints are taken by the plan. The step may run hours later, and on another machine.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from model.errors import ConfigError, DataError
from pipeline.artifacts.versions import library_versions
from pipeline.plan.fingerprints import TOKENIZER, Fingerprints
from pipeline.plan.job import JobSpec
from pipeline.plan.locations import Locations

RAW = "fingerprint"
"""Parameter with the fingerprint of the raw data set. The artifact has that data set's name."""
WEIGHTS = {"florence": "florence", "sam": "sam", "text": "text", "vision": "vision", TOKENIZER: "text"}
"""Parameter with the fingerprint of weights, or of their tokenizer -> role of the weights in the locations."""


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
            place = locations.weights_of(role)
            now = fingerprints.tokenizer(place) if name == TOKENIZER else fingerprints.weights(role, place)
            yield name, f"weights.{role}", now


def check_planned(job: JobSpec, only: frozenset[str] | None = None) -> None:
    """Compare the fingerprints in a step's parameters (or in `only` some of them) with the current ones.

    A file is hashed again only if its size or times changed. Raises DataError if anything changed since planning, and
    ConfigError if the ids name other library versions than this machine has.
    """
    asked, installed = job.spec.params.get("versions", {}), library_versions()
    for name, version in asked.items():
        if installed.get(name) != version:
            raise ConfigError(
                f"{job.ref} is to be made with {name} {version}, but this machine has {installed.get(name, 'none')}; "
                "install the planned version here, or plan on a machine like this one"
            )
    planned = {k: v for k, v in job.spec.params.items() if v is not None and (only is None or k in only)}
    for name, what, now in fingerprints_now(planned, job.locations, job.ref.name):
        if now != planned[name]:
            raise DataError(
                f"{what} changed since the run was planned, so {job.ref} cannot be made from it: restore it, or run "
                "the recipe again, which plans with the current files"
            )
