"""Settings of the sources of raw data. Locations are listed apart, because they never enter an artifact's id."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Config


class CambrianSource(Config):
    """Cambrian's own layout: JSON Lines beside an image tree."""

    kind: Literal["cambrian"] = "cambrian"
    annotations: str = Field(description="location: JSON Lines file")
    images: str = Field(description="location: folder that the records' image paths start from")


class FolderSource(Config):
    """A folder of images and an annotation file, turned into Cambrian-style records."""

    kind: Literal["image_folder"] = "image_folder"
    images: str = Field(description="location: folder of images")
    captions: str | None = Field(
        default=None, description="location: COCO captions JSON, or CSV/JSON Lines with columns image, caption"
    )
    instances: str | None = Field(default=None, description="location: COCO instances JSON with masks")
    records: Literal["captions", "existence"] = Field(
        default="captions",
        description="one record per caption, or yes/no questions about the annotated categories",
    )
    split: Literal["all", "train", "test"] = Field(
        default="all", description="images to use, by hash: test is about a fourth of them, train is the rest"
    )


class MiniatureSource(Config):
    """The miniature world: rendered on first use below the scratch folder, in Cambrian's own layout."""

    kind: Literal["miniature"] = "miniature"
    records: Literal["captions", "questions"] = Field(description="captions, or questions and answers")
    scenes: int = Field(ge=1, description="number of scenes (images)")
    seed: int = Field(ge=0, description="number of the first scene; two data sets must not overlap")


Source = Annotated[CambrianSource | FolderSource | MiniatureSource, Field(discriminator="kind")]
LOCATIONS: dict[str, tuple[str, ...]] = {
    "cambrian": ("annotations", "images"),
    "image_folder": ("images", "captions", "instances"),
    "miniature": (),
}


def identity(source: CambrianSource | FolderSource | MiniatureSource) -> dict[str, object]:
    """The settings of a source that decide its records: all but its locations."""
    return source.model_dump(mode="json", exclude=set(LOCATIONS[source.kind]))
