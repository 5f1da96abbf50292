"""The kinds of records that the step `overlap` lists, and that a recipe can leave out."""

from typing import Literal

DUPLICATES = "duplicates"
DropKind = Literal["duplicates", "evaluation_images", "instruct_images"]
"""Records equal to another one of their data set, or on an image that the evaluation or the instruction data has."""


def images_of(dataset: str) -> str:
    """The kind of a record whose image is also in another data set: 'evaluation_images'."""
    return f"{dataset}_images"
