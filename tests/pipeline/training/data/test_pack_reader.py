"""Rows of a pack by address: any order, few open files, few bytes, and damage that is named."""

import hashlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.packing.groups import LEAVES
from pipeline.schemas import PACK, part_name
from pipeline.training.data.index import PackIndex
from pipeline.training.data.order import Address
from pipeline.training.data.pack_files import PackFiles, ShardFile
from pipeline.training.data.pack_reader import PackReader, PackRow
from tests.fixtures_s3 import BUCKET, S3Server, s3_in_environment


def write_pack(folder: Path, shards: list[list[bytes | None]], group: int = 2) -> None:
    """A pack in which row r of shard s has r + 1 tokens of value 100 s + r."""
    folder.mkdir(parents=True, exist_ok=True)
    for s, images in enumerate(shards):
        rows = [
            {
                "sample_id": f"{s}-{r}",
                "image": image,
                "image_bytes": len(image or b""),
                "image_sha256": None if image is None else hashlib.sha256(image).hexdigest(),
                "length": r + 1,
                "input_ids": [100 * s + r] * (r + 1),
                "target": [r % 2 == 0] * (r + 1),
                "token_starts": list(range(r + 1)),
                "token_ends": list(range(1, r + 2)),
                "turns": [{"turn": 0, "question_start": 0, "question_end": 1, "answer_start": 2, "answer_end": 3}],
            }
            for r, image in enumerate(images)
        ]
        small = [name for name in LEAVES if name != "image"]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=PACK),
            folder / part_name(s, len(shards)),
            row_group_size=group,
            compression=dict.fromkeys(small, "zstd") | {"image": "none"},
            use_dictionary=small,
            write_page_checksum=True,
        )


def with_checksums(folder: Path) -> PackFiles:
    """The shards with the checksums that a manifest would have."""
    files = sorted(folder.glob("part-*"))
    shards = (ShardFile(f.name, f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files)
    return PackFiles(LocalFileSystem(), str(folder), "pack/tiny/0", tuple(shards))


def all_rows(index: PackIndex) -> list[Address]:
    return [Address(shard, row) for shard in range(len(index)) for row in range(index.shard_rows(shard))]


def plain(row: PackRow) -> tuple[Any, ...]:
    arrays = (row.input_ids, row.target, row.starts, row.ends)
    return row.sample_id, row.image, *(a.tolist() for a in arrays), row.spans


def test_every_row_is_found_in_any_order(tmp_path: Path) -> None:
    write_pack(tmp_path, [[b"a"] * 7, [b"b"] * 3, [b"c"] * 5])
    index = PackIndex.read(PackFiles.local(tmp_path))
    reader = PackReader(index, open_shards=2, cache_bytes=1)
    addresses = all_rows(index)
    assert index.rows == len(addresses) == 15
    for at in np.random.default_rng(0).permutation(len(addresses) * 3) % len(addresses):
        address = addresses[at]
        row = reader.row(address)
        assert row.sample_id == f"{address.shard}-{address.row}"
        assert row.input_ids.tolist() == [100 * address.shard + address.row] * (address.row + 1)
        assert row.target.tolist() == [address.row % 2 == 0] * (address.row + 1)
        assert (row.starts < row.ends).all()
        assert row.image == b"abc"[address.shard : address.shard + 1]
    assert [row.sample_id for row in reader.rows([Address(2, 4), Address(0, 0), Address(2, 4)])] == [
        "2-4",
        "0-0",
        "2-4",
    ]
    with pytest.raises(IndexError, match="has no row 7"):
        reader.row(Address(0, 7))


def test_the_cache_has_a_limit_in_bytes(tmp_path: Path) -> None:
    write_pack(tmp_path, [[bytes([i]) * 1000 for i in range(8)]] * 2, group=1)
    index = PackIndex.read(PackFiles.local(tmp_path))
    for limit, kept in ((1, 1), (5000, 4), (1 << 20, 16)):
        reader = PackReader(index, cache_bytes=limit)
        reader.rows(all_rows(index))
        assert 1 <= len(reader._groups) <= kept
        assert reader._cached == sum(group.nbytes for group in reader._groups.values())
    assert len(reader._groups) == 16


def test_an_index_is_the_same_after_saving_and_knows_images_and_lengths(tmp_path: Path) -> None:
    images = [b"x", b"xy", None, None, None, b"x", b"x"]
    write_pack(tmp_path / "pack", [images, [None]])
    read = PackIndex.read(PackFiles.local(tmp_path / "pack"))
    read.save(tmp_path / "index")
    for index in (read, PackIndex.open(tmp_path / "index", PackFiles.local(tmp_path / "pack"))):
        assert index.image_bytes(0).tolist() == [len(i or b"") for i in images]
        assert index.image_bytes(1).tolist() == [0]
        assert index.lengths(0).tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert index.group_ends(0).tolist() == [2, 4, 6, 7]
        assert (index.rows, len(index)) == (8, 2)
    assert isinstance(index.lengths(0).base, np.memmap)
    write_pack(tmp_path / "other", [images[:3], [None]])
    with pytest.raises(DataError, match="index of other files"):
        PackIndex.open(tmp_path / "index", PackFiles.local(tmp_path / "other"))


def test_a_pack_without_lengths_is_refused(tmp_path: Path) -> None:
    write_pack(tmp_path, [[b"x"]])
    path = tmp_path / part_name(0, 1)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("length"), "length", pa.nulls(1, pa.int32())), path)
    with pytest.raises(DataError, match="length has gaps"):
        PackIndex.read(PackFiles.local(tmp_path))


def test_a_folder_that_is_not_a_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no part-\*.parquet"):
        PackFiles.local(tmp_path)
    pq.write_table(pa.table({"sample_id": ["a"]}), tmp_path / part_name(0, 1))
    with pytest.raises(DataError, match="has no column image"):
        PackIndex.read(PackFiles.local(tmp_path))


MANY = """
import resource, sys, pathlib
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from pipeline.training.data.index import PackIndex
from pipeline.training.data.order import Address
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.pack_reader import PackReader
index = PackIndex.read(PackFiles.local(pathlib.Path(sys.argv[1])))
reader = PackReader(index, cache_bytes=1)
rows = [reader.row(Address(shard, 0)) for shard in range(len(index))]
print(len(rows), rows[-1].image)
"""


def test_two_thousand_shards_are_read_with_few_open_files(tmp_path: Path) -> None:
    write_pack(tmp_path, [[b"image"]])
    first = tmp_path / part_name(0, 1)
    for shard in range(2000):
        (tmp_path / part_name(shard, 2000)).hardlink_to(first)
    first.unlink()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 256
    done = subprocess.run([sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2000 b'image'", done.stderr[-2000:]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_in_environment() as server:
        yield server


def on_s3(folder: Path, bucket: str) -> PackFiles:
    """The same shards in the object store."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    fs = S3FileSystem(use_listings_cache=False)
    local = with_checksums(folder)
    for shard in local.shards:
        fs.put_file(str(folder / shard.path), f"{bucket}/{shard.path}")
    return PackFiles(fs, bucket, local.name, local.shards)


def test_an_object_store_gives_the_same_rows_by_byte_range(
    tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of a pack of a megabyte cost a part of it; the index and sample ids cost no images."""
    image = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()
    write_pack(tmp_path, [[image, image, None, None, image, image, image, image]] * 3)
    files = on_s3(tmp_path, f"{BUCKET}/ranges")
    total = sum(shard.size for shard in files.shards)
    fetched: list[int] = []
    cls = type(files.fs.open(files.path(0), size=1))
    fetch = cls._fetch_range

    def counted(self: Any, start: int, end: int) -> Any:
        fetched.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(cls, "_fetch_range", counted)
    index = PackIndex.read(files)
    local = PackIndex.read(with_checksums(tmp_path))
    assert all(index.lengths(s).tolist() == local.lengths(s).tolist() for s in range(3))
    assert [files.column(s, ["sample_id"]).num_rows for s in range(3)] == [8, 8, 8]
    assert 0 < sum(fetched) < total // 2 + 6 * (64 << 10)  # a footer costs at most 64 KB
    assert max(fetched) <= 64 << 10
    fetched.clear()
    some = [Address(0, 0), Address(2, 7), Address(2, 2)]
    mine, theirs = PackReader(index).rows(some), PackReader(local).rows(some)
    assert [plain(row) for row in mine] == [plain(row) for row in theirs]
    assert 0 < sum(fetched) < total // 2


# -- damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackIndex, list[tuple[Any, ...]]]:
    folder = tmp_path_factory.mktemp("sound")
    write_pack(folder, [[b"first image", b"second image", None, b"fourth image", b"fifth"], [b"other"]])
    index = PackIndex.read(with_checksums(folder))
    return folder, index, [plain(row) for row in PackReader(index).rows(all_rows(index))]


def damaged(folder: Path, index: PackIndex, content: bytes) -> PackReader:
    """A reader of the pack whose first shard has other bytes."""
    folder.mkdir(exist_ok=True)
    sound = Path(index.files.folder)
    (folder / index.files.shards[1].path).write_bytes((sound / index.files.shards[1].path).read_bytes())
    (folder / index.files.shards[0].path).write_bytes(content)
    files = PackFiles(LocalFileSystem(), str(folder), index.files.name, index.files.shards)
    index.save(folder / "index") if not (folder / "index").exists() else None
    return PackReader(PackIndex.open(folder / "index", files))


@settings(max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_reported_or_lands_where_nothing_reads(
    sound: tuple[Path, PackIndex, list[tuple[Any, ...]]],
    tmp_path_factory: pytest.TempPathFactory,
    place: float,
    bit: int,
) -> None:
    folder, index, rows = sound
    content = bytearray((folder / index.files.shards[0].path).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    reader = damaged(tmp_path_factory.getbasetemp() / "flipped", index, bytes(content))
    found, name = hashlib.sha256(content).hexdigest()[:12], index.files.shards[0].path
    stated = str(index.files.shards[0].sha256)[:12]
    for address, expected in zip(all_rows(index), rows, strict=True):
        message = difference(reader, address, expected)
        if message:
            assert message.startswith(f"shard {name} of pack pack/tiny/0: row"), (address, message)
            assert (found in message and stated in message) or "its image has sha256" in message
            assert message.endswith("run the step 'pack' again")


def difference(reader: PackReader, address: Address, expected: tuple[Any, ...]) -> str:
    """The error of a row; '' if it is as expected."""
    try:
        row = reader.row(address)
    except DataError as error:
        return str(error)
    return "" if plain(row) == expected else f"{address} is another row, and nothing was said"


def test_a_damaged_image_is_named_by_its_row(
    sound: tuple[Path, PackIndex, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    folder, index, _ = sound
    content = (folder / index.files.shards[0].path).read_bytes()
    reader = damaged(tmp_path, index, content.replace(b"second", b"sec0nd"))
    expected = hashlib.sha256(b"second image").hexdigest()[:12]
    found = hashlib.sha256(b"sec0nd image").hexdigest()[:12]
    with pytest.raises(
        DataError, match=rf"row 1 \(sample 0-1\): its image has sha256 {found} and not {expected}: the file's sha256"
    ):
        reader.row(Address(0, 0))
    assert reader.row(Address(0, 3)).image == b"fourth image"
    assert reader.row(Address(1, 0)).image == b"other"


def test_an_image_that_was_packed_under_another_checksum_is_named(tmp_path: Path) -> None:
    """The pages are intact: only the image's own checksum tells."""
    write_pack(tmp_path, [[b"an image", b"another"]])
    path = tmp_path / part_name(0, 1)
    table = pq.read_table(path)
    column = table.column_names.index("image_sha256")
    pq.write_table(table.set_column(column, "image_sha256", pa.array(["0" * 64] * 2)), path)
    with pytest.raises(
        DataError, match=r"row 1 \(sample 0-1\): its image has sha256 \w+ and not 000000000000; restore"
    ):
        PackReader(PackIndex.read(PackFiles.local(tmp_path))).row(Address(0, 1))


def test_a_truncated_and_a_missing_shard_are_named(
    sound: tuple[Path, PackIndex, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    folder, index, _ = sound
    shard = index.files.shards[0]
    content = (folder / shard.path).read_bytes()
    for size in (0, 3, len(content) // 2, len(content) - 1):
        reader = damaged(tmp_path, index, content[:size])
        with pytest.raises(DataError, match=rf"shard {shard.path} .* rows 0 to 1: the file has {size} bytes and not"):
            reader.row(Address(0, 1))
        with pytest.raises(DataError, match=rf"shard {shard.path} .*: the file has {size} bytes and not"):
            PackIndex.read(reader.index.files)
    (tmp_path / shard.path).unlink()
    with pytest.raises(DataError, match=rf"row 4: the file is missing \(sha256 {str(shard.sha256)[:12]} is expected\)"):
        reader.row(Address(0, 4))
