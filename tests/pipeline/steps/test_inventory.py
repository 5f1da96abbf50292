"""inventory: every record becomes a row or a reject."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import pipeline.sources.cambrian as cambrian_source
import pipeline.sources.lines as lines
from model.errors import DataError
from pipeline.inventory.reading import MAX_DETAIL
from pipeline.schemas import RECORDS, TRUTH
from pipeline.sources.cambrian import CambrianReader
from pipeline.sources.config import FolderSource, MiniatureSource
from tests.pipeline.sources.fixtures_pictures import animated, bomb, encoded, halves, rotated_by_exif
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, chat, rejects, table

CHAT = chat(("<image>\nWhat is it?", "Two halves."))


def messy(folder: Path) -> Workshop:
    """Good records, and bad ones of each kind."""
    images = folder / "images"
    images.mkdir(parents=True)
    files: dict[str, bytes] = {
        "good.jpg": encoded(halves(), "JPEG"),
        "really_a_png.jpg": encoded(halves()),
        "turned.jpg": rotated_by_exif(6),
        "moving.gif": animated(),
        "empty.jpg": b"",
        "cut.jpg": encoded(halves(300, 300), "JPEG")[:900],
        "page.jpg": b"<html>not found</html>",
        "bomb.png": bomb(),
    }
    for name, content in files.items():
        (images / name).write_bytes(content)
    (images / "out.jpg").symlink_to("/etc/hostname")
    names = [*files, "out.jpg", "../x.jpg", "/etc/passwd", "http://h/x.jpg", "missing.jpg"]
    lines: list[dict[str, Any] | str] = [{"id": name, "image": name, "conversations": CHAT} for name in names]
    lines += [
        "{ not json",
        {"id": "talk", "conversations": chat(("Hi", "Hello"))},
        {"id": "silent", "image": "good.jpg", "conversations": chat(("<image>", " "))},
        {"id": "again", "image": "./good.jpg", "conversations": chat(("What colour?", "Red and blue."), ("Q", "A"))},
        {"id": "a copy", "image": "good.jpg", "conversations": CHAT},
    ]
    return Workshop(folder, cambrian(folder, lines))


def test_every_line_is_a_row_or_a_reject_with_its_reason(tmp_path: Path) -> None:
    workshop = messy(tmp_path)
    artifact = workshop.inventory(max_reject_share=0.7)
    counts = artifact.manifest.counts
    assert (counts.unit, counts.rows_in, counts.rows_out, counts.not_selected) == ("record", 18, 7, 0)
    assert counts.rejected == {
        "zero_byte": 1,
        "truncated": 1,
        "not_an_image": 1,
        "bomb": 1,
        "path_escape": 4,
        "missing_image": 1,
        "malformed_json": 1,
        "empty_text": 1,
    }
    assert {reason: len(details) for reason, details in rejects(artifact).items()} == counts.rejected
    assert rejects(artifact)["malformed_json"][0].startswith("line 14: ")
    records = table(artifact, "records/")
    assert records.schema.equals(RECORDS)
    rows = {row["given_id"]: row for row in records.to_pylist()}
    assert list(rows) == ["good.jpg", "really_a_png.jpg", "turned.jpg", "moving.gif", "talk", "again", "a copy"]
    assert (rows["turned.jpg"]["width"], rows["turned.jpg"]["height"]) == (20, 40)
    good = rows["good.jpg"]
    assert good["image_sha256"] == hashlib.sha256((tmp_path / "images" / "good.jpg").read_bytes()).hexdigest()
    assert good["turns"] == [{"question": "What is it?", "answer": "Two halves."}]
    assert rows["again"]["image"] == "good.jpg"
    assert rows["again"]["image_sha256"] == good["image_sha256"]
    assert rows["a copy"]["sample_id"] == good["sample_id"] + "#1"
    talk = rows["talk"]
    assert (talk["has_image"], talk["image"], talk["image_sha256"], talk["width"]) == (False, None, None, None)
    assert not artifact.matching("truth/")
    assert artifact.manifest.statistics == {
        "turns": 8,
        "with_image": 6,
        "text_only": 1,
        "exact_copies": 1,
        "images_named": 13,
        "repairs": {"dot_prefix": 1},
        "formats": {"GIF": 1, "JPEG": 4, "PNG": 1},
        "changes": {"image_token_added": 1},
    }
    lost = {row["reason"]: row for row in table(artifact, "rejects/").to_pylist()}
    assert (lost["zero_byte"]["line"], lost["zero_byte"]["given_id"]) == (5, "empty.jpg")
    assert (lost["malformed_json"]["line"], lost["malformed_json"]["given_id"]) == (14, "")


def test_too_many_rejects_fail_with_counts_examples_and_remedy(tmp_path: Path) -> None:
    workshop = messy(tmp_path)
    with pytest.raises(DataError) as caught:
        workshop.inventory(max_reject_share=0.3)
    message = str(caught.value)
    assert "11 of 18 records of data.pretrain were rejected, more than max_reject_share = 0.3" in message
    assert "  path_escape: 4" in message
    assert "empty.jpg" in message
    assert "allow more with max_reject_share" in message
    assert workshop.store.get(workshop.job("inventory", _params(workshop, 0.3)).ref) is None


def _params(workshop: Workshop, share: float) -> dict[str, Any]:
    source = {"kind": "cambrian"}
    return {"source": source, "limit": None, "max_reject_share": share, "fingerprint": "raw"}


def test_a_limit_takes_the_first_records_and_reads_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cambrian_source, "SPLIT_BYTES", 300)
    monkeypatch.setattr(lines, "BLOCK", 64)
    whole = many(tmp_path / "all").inventory()
    opened: list[int] = []
    really = CambrianReader.read
    monkeypatch.setattr(
        CambrianReader, "read", lambda self, split: (opened.append(split.start), really(self, split))[1]
    )
    for limit in (1, 5, 12, 40, 1000):
        opened.clear()
        artifact = many(tmp_path / str(limit)).inventory(limit=limit)
        counts = artifact.manifest.counts
        assert counts.rows_out + counts.total_rejected == counts.rows_in == min(limit, 40)
        assert len(opened) <= 1 + min(limit, 40) // 2
        taken = table(artifact, "records/")
        assert taken.equals(table(whole, "records/").slice(0, len(taken)))


def test_an_empty_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.pretrain holds no records"):
        Workshop(tmp_path, cambrian(tmp_path, [])).inventory()


def test_a_data_set_without_a_good_record_is_an_error_at_any_reject_limit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 2 records .* nothing would be left:\n  malformed_json: 2"):
        Workshop(tmp_path, cambrian(tmp_path, ["{", "{"])).inventory(max_reject_share=1.0)


def test_details_that_are_not_valid_utf8_are_escaped_and_cut(tmp_path: Path) -> None:
    talk = [{"from": "\ud800" * 5000, "value": "Q"}, {"from": "gpt", "value": "A"}]
    good: dict[str, Any] = {"conversations": chat(("Q", "A"))}
    bad = {"conversations": [{"from": "human", "value": "Q"}, *talk]}
    artifact = Workshop(
        tmp_path, cambrian(tmp_path, [bad, good, {"image": "\ud800", "conversations": CHAT}])
    ).inventory(max_reject_share=0.9)
    details = rejects(artifact)
    assert "\\ud800" in details["bad_roles"][0]
    assert "\\ud800" in details["path_escape"][0]
    assert len(details["bad_roles"][0]) < 6 * MAX_DETAIL + 20


def many(folder: Path) -> Workshop:
    """Forty records in several shards; images repeat across them, some are missing."""
    images = folder / "images"
    images.mkdir(parents=True)
    for n in range(9):
        (images / f"{n}.jpg").write_bytes(encoded(halves(20 + n, 10), "JPEG"))
    lines: list[dict[str, Any] | str] = [
        {"id": n, "image": f"{n % 11}.jpg", "conversations": chat((f"Q{n}", "A"))} for n in range(40)
    ]
    return Workshop(folder, cambrian(folder, lines))


def test_the_counts_match_the_number_of_rows(tmp_path: Path) -> None:
    artifact = many(tmp_path).inventory()
    assert artifact.manifest.counts.rows_out == table(artifact, "records/").num_rows == 34


def test_truth_of_the_miniature_world(tmp_path: Path) -> None:
    source = MiniatureSource(records="questions", scenes=4, seed=5_000_000)
    artifact = Workshop(tmp_path, source).inventory()
    records, truth = table(artifact, "records/"), table(artifact, "truth/")
    assert truth.schema.equals(TRUTH)
    turns = {(row["sample_id"], number) for row in records.to_pylist() for number in range(len(row["turns"]))}
    assert {(row["sample_id"], row["turn"]) for row in truth.to_pylist()} == turns
    sizes = {row["sample_id"]: (row["height"], row["width"]) for row in records.to_pylist()}
    for row in truth.to_pylist():
        assert (row["height"], row["width"]) == sizes[row["sample_id"]]
        assert row["present"] == (row["rle"] is not None)


def test_a_mask_for_an_image_of_another_size_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(rotated_by_exif(6))  # stored 40 x 20, shown 20 x 40
    marks = [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "iscrowd": 0}]
    instances = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 40}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": marks,
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    source = FolderSource(
        images=str(tmp_path / "images"), instances=str(tmp_path / "instances.json"), records="existence"
    )
    artifact = Workshop(tmp_path, source).inventory()
    assert artifact.manifest.statistics["truth_of_another_size"] == 1
    assert len(table(artifact, "truth/")) == 0
