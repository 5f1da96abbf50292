"""The tables that steps hand to each other, as Arrow schemas.

A *turn* is one question and its answer. Its text, for offsets, is `question + " " + answer`: characters
[0, len(question)) are the question, those from len(question) + 1 on the answer (`pipeline.sources.conversation`).
Masks and sizes are always those of the full, EXIF-applied image; `rle` is the `counts` string of COCO's compressed
run-length encoding.
"""

import pyarrow as pa

_TURN = pa.struct([("question", pa.string()), ("answer", pa.string())])

# inventory: records/part-*.parquet, in the order of the raw data
RECORDS = pa.schema(
    [
        ("sample_id", pa.string()),  # hash of the canonical record; '#k' for the k-th exact copy
        ("given_id", pa.string()),  # the raw data's own id, '' if none
        ("source", pa.string()),  # the part of the data set: the record's 'source', else its image's first folder
        ("has_image", pa.bool_()),
        ("image", pa.string()),  # locator (pipeline.sources.images.locators), null for text-only records
        ("image_sha256", pa.string()),  # of the file's bytes
        ("image_format", pa.string()),  # by content, e.g. 'JPEG'
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("turns", pa.list_(_TURN)),
    ]
)

# inventory: rejects/part-*.parquet
INVENTORY_REJECTS = pa.schema(
    [
        ("id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("line", pa.int64()),  # or row, or annotation: its number in the file, from 1
        ("given_id", pa.string()),
    ]
)

# inventory: truth/part-*.parquet, only if the source has ground truth: the object that each turn is about
TRUTH = pa.schema(
    [
        ("sample_id", pa.string()),
        ("turn", pa.int32()),
        ("present", pa.bool_()),  # False: the turn is about an object that is not in the image (rle is null)
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("rle", pa.string()),
    ]
)

# overlap: pretrain/part-*.parquet and instruct/part-*.parquet, each sorted
OVERLAP = pa.schema(
    [
        ("sample_id", pa.string()),
        ("kind", pa.string()),  # 'duplicates', or the data set that has its image too: 'evaluation_images'
        ("other", pa.string()),  # sample_id of the original, or checksum of the image
    ]
)

_QUERY = [
    ("sample_id", pa.string()),
    ("turn", pa.int32()),
    ("query_kind", pa.string()),
    ("char_start", pa.int32()),  # of the text that was sent to Florence-2, in the turn's text
    ("char_end", pa.int32()),
    ("image_sha256", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("query", pa.string()),
]

# subset: queries/part-*.parquet, all queries of an image together, images in seeded hash order
QUERIES = pa.schema([*_QUERY, ("image", pa.string())])

# A null figure is one that the teacher does not have.
_INSTANCE = pa.struct(
    [
        ("polygons", pa.list_(pa.list_(pa.float32()))),  # Florence's, flat x, y in pixels
        ("box", pa.list_(pa.float32())),  # x0, y0, x1, y1 of the polygons
        ("rle", pa.string()),  # SAM's mask
        ("area", pa.int64()),  # pixels
        ("area_fraction", pa.float32()),  # of the image
        ("phrase", pa.string()),  # the words it was found for; '' for the whole query
        ("sam_iou", pa.float32()),  # SAM's own prediction
        ("agreement_iou", pa.float32()),  # of the region and the mask
        ("stability", pa.float32()),  # IoU of the masks at a higher and a lower threshold of SAM's logits
    ]
)

# segment: part-*.parquet, one file per input shard
EVIDENCE = pa.schema(
    [
        *_QUERY,
        ("status", pa.string()),  # 'ok' | 'no_region' | 'error'
        ("reason", pa.string()),  # of an error: a name, ': ' and details
        ("polygon_score", pa.float32()),  # geometric mean probability of Florence's answer
        ("ended", pa.bool_()),  # False: the token budget cut Florence's answer off
        ("answer_tokens", pa.int32()),  # of Florence's answer, with the end mark
        ("characters_cut", pa.int32()),  # at the end of the text, which were not sent
        ("degenerate", pa.int32()),  # regions without area, which were dropped
        ("instances", pa.list_(_INSTANCE)),
        ("teacher", pa.string()),
    ]
)

MASK_STATUSES = ("ok", "low_quality", "no_region", "error")

# masks: part-*.parquet
MASKS = pa.schema(
    [
        *_QUERY,
        ("status", pa.string()),  # 'ok' | 'low_quality' | 'no_region' | 'error'
        ("reason", pa.string()),  # of 'low_quality': the gate; of 'error': a name, ': ' and details
        ("rle", pa.string()),  # union of the accepted instances, null unless 'ok'
        ("area", pa.int64()),
        ("area_fraction", pa.float32()),  # of the image
        ("polygon_score", pa.float32()),
        ("ended", pa.bool_()),
        ("sam_iou", pa.float32()),  # smallest of the accepted instances (of all, where none was accepted)
        ("agreement_iou", pa.float32()),
        ("stability", pa.float32()),
        ("teacher", pa.string()),
    ]
)

# masks: its files, besides rejects
PRICES_FILE = "prices.json"  # pipeline.masks.price; only where a truth is known
CONTACT_SHEET = "provenance/contact_sheet.jpg"  # for people; not part of the content digest: images may not be at hand

_SPANS = pa.struct(
    [
        ("turn", pa.int32()),
        # Characters of the rendered conversation. Where the template leaves the question out they are negative, so that
        # they cover no token; their difference is still the question's length, which offsets of a turn's text need.
        ("question_start", pa.int32()),
        ("question_end", pa.int32()),
        ("answer_start", pa.int32()),
        ("answer_end", pa.int32()),
    ]
)

# pack: part-*.parquet, rows in a seeded random order
PACK = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image", pa.binary()),  # the file's own bytes, null for text-only rows
        ("image_bytes", pa.int32()),  # size of `image`; 0 for text-only rows
        ("image_sha256", pa.string()),  # of `image`, null for text-only rows
        ("length", pa.int32()),  # tokens of the row
        ("input_ids", pa.list_(pa.int32())),
        ("target", pa.list_(pa.bool_())),  # tokens that count in the LM loss: the assistant's
        ("token_starts", pa.list_(pa.int32())),  # characters of the rendered conversation
        ("token_ends", pa.list_(pa.int32())),
        ("turns", pa.list_(_SPANS)),
    ]
)


def part_name(index: int, count: int, folder: str = "") -> str:
    """Name of a shard: 'part-00003-of-00012.parquet', below `folder` if given."""
    return f"{folder}{'/' if folder else ''}part-{index:05d}-of-{count:05d}.parquet"


# checkpoint: its files, besides rejects
MODEL = "model"  # a Hugging Face folder: weights, configuration, tokenizer, processor
METRICS_FILE = "metrics.parquet"  # pipeline.training.watch.metrics.METRICS
SPEED_FILE = "provenance/speed.parquet"  # pipeline.training.watch.metrics.SPEED; not part of the content digest
STAGE_FILE = "stage.json"  # trained parameters, amount of data, last metrics
TRAINING_STATE = "training_state"  # AdamW's state as safetensors and the position as JSON; no step reads it
RUN_FILE = "provenance/run.json"  # interruptions, and time lost to checkpoints; not part of the content digest
WARNINGS_FILE = "provenance/warnings.json"  # pipeline.training.watch.warnings; not part of the content digest

# segments: its files, besides parts and rejects
SEGMENT_SPEED_FILE = "provenance/speed.json"  # pipeline.masks.watch; not part of the content digest
