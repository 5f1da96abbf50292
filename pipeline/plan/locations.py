"""The locations of a run's data, weights and scratch space on this machine or cluster, and its reject limit.

None of these changes a result, so none is part of an id.
"""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import Field

from model.errors import ConfigError
from pipeline.compute.hub import is_hub_name
from pipeline.config import Config
from pipeline.plan.fingerprints import weights_path
from pipeline.plan.recipe import Dataset, Recipe, Weights
from pipeline.sources.config import LOCATIONS, Source
from pipeline.sources.files import absolute

Value = TypeVar("Value")


class Locations(Config):
    """The locations that a step needs besides its artifacts."""

    root: str = Field(description="the artifact store: a local path or fsspec URL")
    scratch: str = Field(description="local folder for temporary files and for the rendered miniature world")
    sources: dict[str, Source] = Field(description="data set -> its source with locations")
    weights: dict[str, str] = Field(description="role (florence, sam, text, vision) -> path or hub name")
    max_reject_share: float = Field(
        default=0.05, ge=0, le=1, description="a step that rejects a larger share of its rows fails; 1 allows any"
    )

    def source(self, dataset: str) -> Source:
        """The source of a data set. Raises ConfigError if there is none of that name."""
        return _named("source", dataset, self.sources)

    def weights_of(self, role: str) -> str:
        """Path or hub name of weights. Raises ConfigError if there are none for that role."""
        return _named("weights", role, self.weights)


def locations_of(recipe: Recipe, root: str, scratch: str) -> Locations:
    """The locations of a recipe on this machine; relative ones become absolute, whether they exist or not."""
    datasets: dict[str, Dataset] = dict(recipe.data)
    roles: dict[str, str] = dict(Weights.model_validate(recipe.weights))
    return Locations(
        root=root,
        scratch=scratch,
        max_reject_share=recipe.max_reject_share,
        sources={name: _absolute(dataset.source) for name, dataset in datasets.items()},
        weights={role: name if is_hub_name(name) else str(weights_path(role, name)) for role, name in roles.items()},
    )


def _absolute(source: Source) -> Source:
    paths = {field: getattr(source, field) for field in LOCATIONS[source.kind]}
    return source.model_copy(update={field: absolute(p) for field, p in paths.items() if p is not None})


def _named(what: str, name: str, found: Mapping[str, Value]) -> Value:
    if name not in found:
        raise ConfigError(
            f"the job has no {what} '{name}'; it has {', '.join(sorted(found)) or 'none'}; "
            "'agevlm plan RECIPE --json FOLDER' writes specs with all of them"
        )
    return found[name]
