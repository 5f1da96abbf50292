"""The original images of masks, in the raw data set that their evidence was made from."""

from collections.abc import Callable

import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import DataError
from pipeline.artifacts.store import Artifact
from pipeline.report.sample import Row
from pipeline.sources.images.store import ImageStore

Images = Callable[[Row], bytes]
"""Gives the image file of a row of MASKS. Raises AgevlmError or OSError if it is not at hand."""


def ancestor(segments: Artifact, name: str) -> Artifact:
    """An input of the step segment. Raises AgevlmError if it is not there."""
    parent = segments.manifest.parents.get(name)
    if parent is None:
        raise DataError(f"{segments.ref} was not made from a {name}")
    return segments.store.require(parent.ref)


def locators_of(subset: Artifact) -> dict[tuple[str, str], str]:
    """sample_id and checksum -> locator of every image that was sent to the teachers."""
    found: dict[tuple[str, str], str] = {}
    for file in subset.matching("queries/part-", ".parquet"):
        with subset.open(file) as stream:
            table = pq.ParquetFile(stream).read(columns=["sample_id", "image_sha256", "image"])
        columns = (table[name].to_pylist() for name in ("sample_id", "image_sha256", "image"))
        found |= {(sample, checksum): locator for sample, checksum, locator in zip(*columns, strict=True)}
    return found


def raw_images(segments: Artifact, store_of: Callable[[Artifact], ImageStore]) -> Images:
    """The images in the raw data. Nothing is read before the first is asked for.

    store_of: gives the images of the data set of an inventory.
    """
    opened: list[tuple[ImageStore, dict[tuple[str, str], str]]] = []

    def read(row: Row) -> bytes:
        if not opened:
            locators = locators_of(ancestor(segments, "subset"))
            opened.append((store_of(ancestor(segments, "inventory")), locators))
        images, locators = opened[0]
        locator = locators.get((row["sample_id"], row["image_sha256"]))
        if locator is None:
            raise DataError(f"{row['sample_id']}: the subset of {segments.ref} does not list its image")
        return images.read_checked(locator, row["image_sha256"])

    return read
