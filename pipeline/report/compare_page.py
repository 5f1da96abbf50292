"""The page of a comparison of masks: one HTML file without scripts, which loads nothing from elsewhere."""

from collections.abc import Mapping

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from model.errors import DataError
from pipeline.artifacts.spec import short
from pipeline.report.charts.dot_chart import histogram
from pipeline.report.compare import Change, Comparison, Row
from pipeline.report.find_images import find_images
from pipeline.report.formatting import clip, count, plural, score, share
from pipeline.report.overlays import data_uri, draw
from pipeline.report.page import FOLDER, STYLE

TEMPLATE = "compare.html.jinja"
LONGEST = 300
"""Pixels of a picture's longer side."""


def compare_page(comparison: Comparison) -> str:
    """The page's HTML. An image that is not at hand is drawn as a plain ground."""
    shown = comparison.pictures()
    images = find_images(comparison.before, [change.before for change in shown])
    missing = [change.after for change in shown if change.after["sample_id"] not in images]
    images |= find_images(comparison.after, missing)
    pictures = [
        {
            "change": change,
            "before": _picture(change.before, change.after, images),
            "after": _picture(change.after, change.before, images),
        }
        for change in shown
    ]
    agreement = comparison.agreement
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({f.__name__: f for f in (clip, count, plural, score, share, short, result_words)})
    return environment.get_template(TEMPLATE).render(
        style=Markup((FOLDER / STYLE).read_text(encoding="utf-8")),  # our own file: nothing to escape
        c=comparison,
        agreement=agreement,
        chart=histogram("IoU", agreement["histogram"], "masks") if agreement["count"] else None,
        pictures=pictures,
        unseen=sum(change.before["sample_id"] not in images for change in shown),
    )


def result_words(change: Change) -> str:
    """'IoU 0.42', or what happened to the mask."""
    if change.kind == "changed":
        return f"IoU of both masks {change.iou:.2f}"
    return "had a mask only before" if change.kind == "lost" else "has a mask only now"


def _picture(row: Row, other: Row, images: Mapping[str, bytes]) -> str:
    """A row's mask on its image; where it has none, the other's mask as a white line shows the place."""
    size, line = (row["height"], row["width"]), None if row["rle"] else other["rle"]
    try:
        return data_uri(draw(images.get(row["sample_id"]), size, row["rle"], (), line, LONGEST))
    except DataError:  # the file is damaged
        return data_uri(draw(None, size, row["rle"], (), line, LONGEST))
