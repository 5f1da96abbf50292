"""What a step reads beside its artifacts, raw data and pretrained weights, must be what its id was made from.

The plan takes fingerprints, and a step runs hours later, perhaps on another machine.
"""

from collections.abc import Iterable, Iterator

from model.errors import ConfigError, DataError
from pipeline.fingerprints import Fingerprints, cache_folder
from pipeline.job import JobSpec
from pipeline.site import Site

RAW = "fingerprint"
"""Parameter with the fingerprint of the raw data set that the artifact is named after."""
WEIGHTS = {"florence": "florence", "sam": "sam", "text": "text", "vision": "vision", "tokenizer": "text"}
"""Parameter with the fingerprint of weights -> role of those weights in the site."""


def fingerprints_now(params: Iterable[str], site: Site, dataset: str) -> Iterator[tuple[str, str, str]]:
    """For each parameter that is a fingerprint: its name, what it is of, and what it is at this moment.

    Raises ConfigError or DataError if that is missing or cannot be read.
    """
    fingerprints = Fingerprints(cache_folder(site.root, site.scratch))
    for name in params:
        if name == RAW:
            if dataset not in site.sources:
                raise _missing("source", dataset, site.sources)
            yield name, f"data.{dataset}", fingerprints.source(dataset, site.sources[dataset])
        elif name in WEIGHTS:
            role = WEIGHTS[name]
            if role not in site.weights:
                raise _missing("weights", role, site.weights)
            yield name, f"weights.{role}", fingerprints.weights(role, site.weights[role])


def check_planned(job: JobSpec, only: frozenset[str] | None = None) -> None:
    """Compare what a step reads from outside (or `only` some of its parameters) with what was planned.

    Large files are hashed again only if they were touched. Raises DataError if anything is another than it was.
    """
    planned = {k: v for k, v in job.spec.params.items() if v is not None and (only is None or k in only)}
    for name, what, now in fingerprints_now(planned, job.site, job.ref.name):
        if now != planned[name]:
            raise DataError(
                f"{what} changed since the run was planned, so {job.ref} cannot be made from it: bring it back as it "
                "was, or run the recipe again, which plans with what is there now"
            )


def _missing(what: str, name: str, there: Iterable[str]) -> ConfigError:
    return ConfigError(
        f"the site has no {what} '{name}'; it has {', '.join(sorted(there)) or 'none'}; "
        "'agevlm plan RECIPE --json FOLDER' writes specs with all of them"
    )
