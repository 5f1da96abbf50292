"""Settings of the sources of raw data. Locations are listed apart, because they never enter an artifact's id."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Config


class CambrianSource(Config):
    """Cambrian's own layout: JSON Lines beside images in folders or archives."""

    kind: Literal["cambrian"] = "cambrian"
    annotations: str = Field(description="location: JSON Lines file or JSON array, plain or .gz")
    images: str = Field(
        description="location: folder that image paths start from; archives directly in it (.tar, .tar.gz, .tgz, "
        ".tar.bz2, .tar.xz, also in parts such as x.tar_part1) are read too; or one archive"
    )
    folder_aliases: dict[str, str] = Field(
        default_factory=dict,
        description="folder at the start of the records' image paths -> its real name, e.g. sbu558k: llava/sbu",
    )


class ParquetSource(Config):
    """Parquet files with image bytes inside, as Hugging Face data sets are published."""

    kind: Literal["parquet"] = "parquet"
    files: str = Field(description="location: a Parquet file, or a folder tree of them")
    image: str = Field(default="image", description="column with {bytes, path}, or the bytes alone")
    conversations: str | None = Field(
        default=None, description="column with turns (from/value or role/content); default: conversations or messages"
    )
    caption: str | None = Field(default=None, description="column with a caption, in place of conversations")
    id: str | None = Field(default=None, description="column with the data set's own id; default: id, if there is one")


class FolderSource(Config):
    """A folder of images and an annotation file, turned into Cambrian-style records."""

    kind: Literal["image_folder"] = "image_folder"
    images: str = Field(description="location: folder of images, or of archives of them")
    captions: str | None = Field(
        default=None,
        description=(
            "location: local file, COCO captions JSON, or CSV, JSON Lines or Parquet with columns image (or file_name) "
            "and caption (or text); by default the files metadata.csv, .jsonl or .parquet among the images (Hugging "
            "Face's layout)"
        ),
    )
    caption_column: str | None = Field(
        default=None, min_length=1, description="name of the captions' column in a table"
    )
    instances: str | None = Field(default=None, description="location: local file, COCO instances JSON with masks")
    annotation_frame: Literal["upright", "stored"] | None = Field(
        default=None,
        description="what the masks were drawn on: pictures with their EXIF orientation applied, or as they are "
        "stored; by default, masks are left out where the two differ but have the same size",
    )
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


AnySource = CambrianSource | FolderSource | ParquetSource | MiniatureSource
Source = Annotated[AnySource, Field(discriminator="kind")]
LOCATIONS: dict[str, tuple[str, ...]] = {
    "cambrian": ("annotations", "images"),
    "image_folder": ("images", "captions", "instances"),
    "parquet": ("files",),
    "miniature": (),
}
"""Kind -> the settings that are locations: paths or URLs. A fingerprint of what is there enters ids instead."""

FOLDERS = frozenset({"images", "files"})
"""Locations that may be folders; the others are files, whose content is fingerprinted."""


def identity(source: AnySource) -> dict[str, object]:
    """The settings of a source that decide its records: all but its locations."""
    return source.model_dump(mode="json", exclude=set(LOCATIONS[source.kind]))
