"""The kinds of artifact that are exported as a data set, and what their card says about them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One row of the table of kinds."""

    title: str
    main: str
    """Table that `load_dataset(FOLDER)` opens: a folder of parts, '' for parts beside the card, or a file."""
    rows: str
    """The content of one row of that table, in words."""
    note: str = ""
    """A sentence for who uses it."""
    images: bool = False
    """True if it holds images themselves."""


KINDS: dict[str, Kind] = {
    "inventory": Kind(
        "Records", "records", "a record of the raw data with its conversation",
        "`image` says where the image is in the raw data; images themselves are here only if they came from compressed "
        "archives.", images=True,
    ),
    "overlap": Kind("Duplicates and shared images", "pretrain", "a record that another data set has too"),
    "subset": Kind("Queries for mask generation", "queries", "a text that the teachers were asked about an image"),
    "segments": Kind(
        "Evidence of the teachers", "", "a query with everything that the teachers found, before any gate",
        "A mask is the `counts` string of COCO's compressed run-length encoding, in the upright image.",
    ),
    "masks": Kind(
        "Masks", "", "a query with its mask or the reason why it has none",
        "`rle` is the `counts` string of COCO's compressed run-length encoding, in the upright image of `height` x "
        "`width`: `pycocotools.mask.decode({'size': [height, width], 'counts': rle.encode()})`.",
    ),
    "pack": Kind("Training rows", "", "a conversation as tokens, with the bytes of its image", images=True),
    "evaluation": Kind("Predictions", "predictions.parquet", "a question with the model's answer and its score"),
}  # fmt: skip
