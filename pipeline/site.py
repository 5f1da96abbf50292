"""The site: where things are on this machine or cluster, and how much loss a run bears.

Nothing here changes a result, so none of it enters an id.
"""

from pathlib import Path

from pydantic import Field

from pipeline.config import Config
from pipeline.fingerprints import weights_path
from pipeline.recipe import Dataset, Recipe, Weights
from pipeline.sources.config import LOCATIONS, Source


class Site(Config):
    """Locations that a step needs beside its artifacts."""

    root: str = Field(description="the artifact store: a local path or fsspec URL")
    scratch: str = Field(description="local folder for temporary files and for the rendered miniature world")
    sources: dict[str, Source] = Field(description="data set -> its source with locations")
    weights: dict[str, str] = Field(description="role (florence, sam, text, vision) -> path or hub name")
    max_reject_share: float = Field(
        default=0.05, ge=0, le=1, description="a step that rejects a larger share of its rows fails; 1 allows any"
    )


def site_of(recipe: Recipe, root: str, scratch: str) -> Site:
    """The site of a recipe on this machine; relative locations become absolute, whether they exist or not."""
    datasets: dict[str, Dataset] = dict(recipe.data)
    roles: dict[str, str] = dict(Weights.model_validate(recipe.weights))
    return Site(
        root=root,
        scratch=scratch,
        max_reject_share=recipe.max_reject_share,
        sources={name: _absolute(dataset.source) for name, dataset in datasets.items()},
        weights={
            role: name if name.startswith("hub:") else str(weights_path(role, name)) for role, name in roles.items()
        },
    )


def _absolute(source: Source) -> Source:
    paths = {field: getattr(source, field) for field in LOCATIONS[source.kind]}
    return source.model_copy(update={field: str(Path(p).resolve()) for field, p in paths.items() if p is not None})
