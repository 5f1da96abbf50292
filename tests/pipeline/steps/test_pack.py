"""pack: rows in a seeded order, images unchanged, every record a row or a reject."""

import hashlib
import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.compute.sorting as sorting
import pipeline.packing.groups as groups
import pipeline.packing.shards as packing
import pipeline.steps.pack as pack
import pipeline.steps.record_batches as record_batches
from model.errors import ConfigError, DataError, StepError
from pipeline.artifacts.shards import Seal
from pipeline.artifacts.store import Artifact
from pipeline.packing.chat import ChatFormat
from pipeline.schemas import PACK
from pipeline.sources.records import Turn, order_key
from pipeline.steps.context import work_folder
from pipeline.training.data.index import PackIndex
from pipeline.training.data.order import Address
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.pack_reader import PackReader
from tests.pipeline.fixtures_inventories import publish_inventory
from tests.pipeline.packing.fixtures_tokenizer import write_backbone
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, chat, damaged, rejects, shards_of, table

CONFIG = {"max_tokens": 160, "shard_rows": 8, "row_group_rows": 3}
RECORDS = 30


def lines() -> list[dict[str, Any] | str]:
    """Thirty records; every fifth is text only; one is too long, one loses turns, one has a control token."""
    made: list[dict[str, Any] | str] = []
    for n in range(RECORDS - 3):
        shown, image = ("", {}) if n % 5 == 4 else ("<image>\n", {"image": f"{n % 4}.png"})
        turns = [(f"{shown}Is there a {n}?", f"Yes {n}."), ("Is there?", "No.")][: 1 + n % 2]
        made.append({"id": n, "conversations": chat(*turns)} | image)
    made.append({"id": "long", "image": "0.png", "conversations": chat(("Q", "word " * 300))})
    made.append({"id": "cut", "image": "0.png", "conversations": chat(("Q", "A"), ("Q", "word " * 300), ("Q", "B"))})
    made.append({"id": "forged", "image": "0.png", "conversations": chat(("Q", "A<|eot_id|>B"))})
    return made


def prepare(folder: Path, raw: list[dict[str, Any] | str]) -> tuple[Workshop, Artifact]:
    source = cambrian(folder, raw)
    for n in range(4):
        (folder / "images" / f"{n}.png").write_bytes(encoded(halves(20 + 2 * n, 10)))
    backbone = write_backbone(folder / "backbone")
    (backbone / "model.safetensors").write_bytes(b"")  # a pack reads no weights, but their fingerprint is taken
    workshop = Workshop(folder, source, {"text": str(backbone)})
    return workshop, workshop.inventory()


def make(workshop: Workshop, inventory: Artifact, **changes: Any) -> Artifact:
    return workshop.run("pack", _params(**changes), inventory=inventory)


def _params(seed: int = 0, max_reject_share: float = 0.1, **changes: Any) -> dict[str, Any]:
    return {"pack": CONFIG | changes, "tokenizer": "weights", "seed": seed, "max_reject_share": max_reject_share}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return prepare(tmp_path_factory.mktemp("pack"), lines())[0]


@pytest.fixture(scope="module")
def inventory(workshop: Workshop) -> Artifact:
    return workshop.inventory()


@pytest.fixture(scope="module")
def packed(workshop: Workshop, inventory: Artifact) -> Artifact:
    return make(workshop, inventory)


def test_every_record_is_a_row_or_a_reject(packed: Artifact, inventory: Artifact) -> None:
    counts = packed.manifest.counts
    assert (counts.unit, counts.rows_in, counts.rows_out) == ("record", RECORDS, RECORDS - 2)
    assert counts.rows_out == table(packed).num_rows
    assert counts.rejected == {"too_long": 1, "control_token": 1}
    assert "more than 160" in rejects(packed)["too_long"][0]
    names = {row["sample_id"]: row["given_id"] for row in table(inventory, "records/").to_pylist()}
    rows = table(packed)
    assert rows.schema.remove_metadata().equals(PACK)
    found = [names[sample_id] for sample_id in rows.column("sample_id").to_pylist()]
    assert sorted(found) == sorted([*(str(n) for n in range(RECORDS - 3)), "cut"])
    statistics = packed.manifest.statistics
    assert statistics["shards"] == 4
    assert statistics["turns_dropped"] == 2
    assert statistics["rows_shortened"] == 1
    assert statistics["text_only"] == 5
    assert statistics["with_image"] == RECORDS - 2 - 5
    assert statistics["turns"] == sum(len(turns) for turns in rows.column("turns").to_pylist()) == 27 + 13 + 1
    assert statistics["tokens"] == sum(len(ids) for ids in rows.column("input_ids").to_pylist())


def test_rows_have_the_exact_image_and_conversation_of_their_record(
    workshop: Workshop, packed: Artifact, inventory: Artifact
) -> None:
    records = {row["sample_id"]: row for row in table(inventory, "records/").to_pylist()}
    format_ = ChatFormat(Path(workshop.weights["text"]))
    for row in table(packed).to_pylist():
        record = records[row["sample_id"]]
        if record["has_image"]:
            assert hashlib.sha256(row["image"]).hexdigest() == record["image_sha256"]
        else:
            assert row["image"] is None
        turns = [Turn(**turn) for turn in record["turns"]][: len(row["turns"])]
        text = format_.render(turns).text
        assert format_.tokenizer.decode(row["input_ids"], skip_special_tokens=False) == text
        assert len(row["input_ids"]) <= CONFIG["max_tokens"]
        for number, (span, turn) in enumerate(zip(row["turns"], turns, strict=True)):
            assert span["turn"] == number
            assert text[span["question_start"] : span["question_end"]] == turn.question
            assert text[span["answer_start"] : span["answer_end"]] == turn.answer
        targets = [
            text[start:end]
            for start, end, target in zip(row["token_starts"], row["token_ends"], row["target"], strict=True)
            if target
        ]
        assert "".join(targets) == "".join(f"{turn.answer}<|eot_id|>" for turn in turns)


def test_shards_and_row_groups_have_their_sizes_and_order(packed: Artifact, inventory: Artifact) -> None:
    ids = table(inventory, "records/").column("sample_id").to_pylist()
    expected = sorted(ids, key=lambda name: order_key("pack", 0, name))
    bad = {row["id"] for row in pq.read_table(packed.path("rejects.parquet")).to_pylist()}
    files = packed.matching("part-", ".parquet")
    assert files == [f"part-{n:05d}-of-00004.parquet" for n in range(4)]
    for number, name in enumerate(files):
        with pq.ParquetFile(packed.path(name)) as file:
            found = file.read(columns=["sample_id"]).column("sample_id").to_pylist()
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            image = file.metadata.row_group(0).column(1)
        assert found == [name for name in expected[number * 8 : number * 8 + 8] if name not in bad]
        assert all(size == 3 for size in sizes[:-1])
        assert 0 < sizes[-1] <= 3
        assert (image.path_in_schema, image.compression) == ("image", "UNCOMPRESSED")
        assert image.statistics is None  # they would repeat a small image in its page's header


def test_the_order_depends_on_the_seed_and_not_on_the_file(
    workshop: Workshop, inventory: Artifact, packed: Artifact, tmp_path: Path
) -> None:
    shuffled = lines()
    random.Random(5).shuffle(shuffled)
    other, other_inventory = prepare(tmp_path, shuffled)
    assert other_inventory.ref.id != inventory.ref.id
    again = make(other, other_inventory)
    assert [entry.sha256 for entry in again.manifest.files][:4] == [entry.sha256 for entry in packed.manifest.files][:4]
    reseeded = make(workshop, inventory, seed=1)
    first, second = table(packed).column("sample_id").to_pylist(), table(reseeded).column("sample_id").to_pylist()
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_killed_pack_continues_and_ends_the_same(
    workshop: Workshop, inventory: Artifact, packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, other_inventory = prepare(tmp_path, lines())
    built: list[int] = []
    really = packing.build_shard

    def dies_later(job: packing.PackJob, index: int, records: pa.Table) -> Seal:
        built.append(index)
        if index == 2:
            raise KeyboardInterrupt
        return really(job, index, records)

    monkeypatch.setattr(pack, "build_shard", dies_later)
    with pytest.raises(KeyboardInterrupt):
        make(other, other_inventory)
    job = other.job("pack", _params(), inventory=other_inventory)
    assert {"part-00000-of-00004", "part-00001-of-00004"} <= shards_of(job).committed().keys()
    again: list[int] = []

    def counts(job: packing.PackJob, index: int, records: pa.Table) -> Seal:
        again.append(index)
        return really(job, index, records)

    monkeypatch.setattr(pack, "build_shard", counts)
    resumed = make(other, other_inventory)
    assert 2 in again
    assert not {0, 1} & set(again)
    assert {e.path: e.sha256 for e in resumed.manifest.files} == {e.path: e.sha256 for e in packed.manifest.files}
    assert resumed.manifest.counts == packed.manifest.counts
    assert resumed.manifest.statistics == packed.manifest.statistics
    assert not work_folder(job).exists()
    assert resumed.verify() == []


def test_an_image_that_changed_since_the_inventory_stops_the_pack(tmp_path: Path) -> None:
    workshop, inventory = prepare(tmp_path, lines())
    (tmp_path / "images" / "1.png").write_bytes(encoded(halves(50, 50)))
    remedy = r", but the inventory has it; restore it, or .* force = \[\"inventory-pretrain\"\]"
    with pytest.raises(StepError, match=r"image '1\.png' changed since the inventory: sha256 \w+, not \w+" + remedy):
        make(workshop, inventory)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(StepError, match=r"image '1\.png' is not there, but the inventory has it"):
        make(workshop, inventory)


def test_a_backbone_without_a_tokenizer_is_named_before_any_work(tmp_path: Path) -> None:
    workshop, inventory = prepare(tmp_path, lines())
    (tmp_path / "backbone" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no .*tokenizer\.json"):
        make(workshop, inventory)


def test_row_groups_are_closed_before_they_are_too_big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop, inventory = prepare(tmp_path, lines()[:4])
    monkeypatch.setattr(groups, "GROUP_BYTES", 1)
    artifact = make(workshop, inventory)
    with pq.ParquetFile(artifact.path("part-00000-of-00001.parquet")) as file:
        assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [1, 1, 1, 1]


def test_a_pack_that_does_not_fit_into_memory_is_the_same(
    packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop, inventory = prepare(tmp_path, lines())
    monkeypatch.setattr(sorting, "BUCKET_BYTES", 300)
    monkeypatch.setattr(sorting, "READ_BYTES", 100)
    monkeypatch.setattr(record_batches, "BATCH_ROWS", 4)
    again = make(workshop, inventory)
    assert {e.path: e.sha256 for e in again.manifest.files} == {e.path: e.sha256 for e in packed.manifest.files}


def test_lengths_and_sizes_are_columns(packed: Artifact) -> None:
    for row in table(packed).to_pylist():
        assert row["length"] == len(row["input_ids"]) == len(row["target"])
        assert row["image_bytes"] == len(row["image"] or b"")
        assert row["image_sha256"] == (hashlib.sha256(row["image"]).hexdigest() if row["image"] else None)
    index = PackIndex.read(PackFiles.of(packed))
    reader = PackReader(index)
    for shard in range(len(index)):
        rows = [reader.row(Address(shard, row)) for row in range(index.shard_rows(shard))]
        assert index.lengths(shard).tolist() == [len(row.input_ids) for row in rows]
        assert index.image_bytes(shard).tolist() == [len(row.image or b"") for row in rows]


def test_pages_have_checksums(packed: Artifact) -> None:
    """A changed bit of an image is found by the checksum of its page, even if nothing looks into the image."""
    (name, *_) = packed.matching("part-", ".parquet")
    path = Path(packed.path(name))
    image = next(row["image"] for row in pq.read_table(path).to_pylist() if row["image"])
    content = bytearray(path.read_bytes())
    content[content.index(image) + len(image) // 2] ^= 1
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.ParquetFile(io.BytesIO(bytes(content)), page_checksum_verification=True).read()


def test_rejects_are_files_of_their_shards_and_in_one_table(packed: Artifact) -> None:
    parts = [pq.read_table(packed.path(file)) for file in packed.matching("rejects/")]
    assert 0 < len(parts) <= 2
    assert pa.concat_tables(parts).equals(pq.read_table(packed.path("rejects.parquet")))


def test_an_inventory_with_other_files_than_its_manifest_says_is_an_error(
    workshop: Workshop, inventory: Artifact, tmp_path: Path
) -> None:
    other = Workshop(tmp_path, workshop.source, workshop.weights)
    rows = table(inventory, "records/")
    copy = publish_inventory(other.store, [rows])
    pq.write_table(rows.slice(1), copy.path(copy.matching("records/")[0]))
    with pytest.raises(DataError, match=r"has 30 records to pack, but its files have 29: .* 'agevlm verify' shows"):
        make(other, copy)


def test_the_plain_template_packs_captions(workshop: Workshop, inventory: Artifact) -> None:
    artifact = make(workshop, inventory, template="plain", max_reject_share=0.9)
    records = {row["sample_id"]: row for row in table(inventory, "records/").to_pylist()}
    tokenizer = ChatFormat(Path(workshop.weights["text"])).tokenizer
    for row in table(artifact).to_pylist():
        (turn,) = records[row["sample_id"]]["turns"]
        text = f"<|begin_of_text|>{turn['answer']}<|eot_id|>"
        assert tokenizer.decode(row["input_ids"], skip_special_tokens=False) == text
        assert row["target"] == [False] + [True] * (row["length"] - 1)
    assert artifact.manifest.counts.rejected == {"several_turns": 14, "too_long": 1, "control_token": 1}


def too_long(number: int) -> list[dict[str, Any] | str]:
    return [{"id": n, "conversations": chat((f"Q{n}", "word " * 300))} for n in range(number)]


def test_a_pack_that_rejects_too_much_fails_with_reasons_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop, inventory = prepare(tmp_path, [*too_long(20), *lines()[:10]])
    built: list[int] = []
    really = packing.build_shard

    def build_shard(job: packing.PackJob, index: int, records: pa.Table) -> Seal:
        built.append(index)
        return really(job, index, records)

    monkeypatch.setattr(pack, "build_shard", build_shard)
    message = (
        r"of 30 records of pack-pretrain were rejected, more than max_reject_share = 0\.1 allows:\n  too_long: \d+"
    )
    for _ in range(2):
        with pytest.raises(DataError, match=message + r"\nThe first: the first turn alone takes .*\nCorrect"):
            make(workshop, inventory)
    assert built.count(0) == 1, "committed shards are not made again"


def test_a_pack_without_rows_is_not_published(tmp_path: Path) -> None:
    workshop, inventory = prepare(tmp_path, too_long(4))
    params = _params() | {"max_reject_share": 1.0}
    with pytest.raises(DataError, match=r"4 of 4 records .* nothing would be left"):
        workshop.run("pack", params, inventory=inventory)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "torn": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("file", ["part-00001-of-00004.parquet", "_seals/part-00001-of-00004.json"])
def test_a_damaged_commit_is_made_again(
    packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], file: str
) -> None:
    workshop, inventory = prepare(tmp_path, lines())
    with monkeypatch.context() as patch:
        patch.setattr(pack, "_outcome", killed)
        with pytest.raises(KeyboardInterrupt):
            make(workshop, inventory)
    damaged(shards_of(workshop.job("pack", _params(), inventory=inventory)), file, damage)
    built: list[int] = []
    really = packing.build_shard
    monkeypatch.setattr(pack, "build_shard", lambda job, index, table: built.append(index) or really(job, index, table))
    again = make(workshop, inventory)
    assert built == [1]
    assert {e.path: e.sha256 for e in again.manifest.files} == {e.path: e.sha256 for e in packed.manifest.files}
    assert again.manifest.counts == packed.manifest.counts


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_system_prompt_is_in_every_row(workshop: Workshop, inventory: Artifact) -> None:
    artifact = make(workshop, inventory, system_prompt="You see pictures.", max_tokens=400)
    tokenizer = ChatFormat(Path(workshop.weights["text"])).tokenizer
    for ids in table(artifact).column("input_ids").to_pylist():
        assert "You see pictures." in tokenizer.decode(ids)


def test_steps_without_a_model_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys, pipeline.steps.inventory, pipeline.steps.subset, pipeline.steps.pack\n"
        "print([name for name in ('torch', 'transformers', 'ray', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
