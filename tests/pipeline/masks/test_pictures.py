"""Reading the pictures of a shard: exact pixels, and only of files that did not change since the inventory."""

from pathlib import Path

import numpy as np
import pytest

from model.images import decode_image
from pipeline.masks.pictures import pictures_of, read_pictures
from pipeline.sources.images.store import ImageStore
from tests.pipeline.masks.fixtures_dataset import Dataset, break_image, make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path, scenes=4)


def test_pixels_and_queries_are_read_unchanged(dataset: Dataset) -> None:
    table = read_pictures(ImageStore(str(dataset.images)), 7, dataset.queries)
    assert set(table["shard"].to_pylist()) == {7}
    assert table["images"].to_pylist() == [4] * 4
    pictures = list(pictures_of(table))
    assert [row for picture in pictures for row in picture.queries] == dataset.queries.to_pylist()
    for seed, picture in enumerate(pictures):
        image = decode_image((dataset.images / f"{seed}.jpg").read_bytes())
        assert picture.pixels is not None
        assert np.array_equal(picture.pixels, np.asarray(image))


def test_a_picture_that_is_gone_or_changed_fails_its_own_queries_only(dataset: Dataset) -> None:
    (dataset.images / "1.jpg").unlink()
    break_image(dataset.images / "2.jpg")
    (dataset.images / "3.jpg").unlink()
    (dataset.images / "3.jpg").symlink_to("/etc/hostname")
    pictures = list(pictures_of(read_pictures(ImageStore(str(dataset.images)), 0, dataset.queries)))
    assert [picture.pixels is None for picture in pictures] == [False, True, True, True]
    assert pictures[0].reason == ""
    assert pictures[1].reason.startswith("image_changed: missing_image")
    assert pictures[2].reason.startswith("image_changed: image '2.jpg' changed since the inventory: sha256")
    assert pictures[3].reason.startswith("image_changed: path_escape")


def test_a_picture_with_another_size_than_in_the_inventory_has_changed(dataset: Dataset) -> None:
    rows = dataset.queries.to_pylist()
    for row in rows:
        if row["image"] == "0.jpg":
            row["height"], row["width"] = row["width"] + 1, row["height"]
    import pyarrow as pa

    table = pa.Table.from_pylist(rows, schema=dataset.queries.schema)
    first, *others = pictures_of(read_pictures(ImageStore(str(dataset.images)), 0, table))
    assert first.reason.startswith("image_changed: decodes to")
    assert all(picture.reason == "" for picture in others)
