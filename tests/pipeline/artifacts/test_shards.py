"""The commit protocol on a local disk and on an object store: after damage or a rerun a shard is intact or absent."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.artifacts.shards import SEALS, Shards, folder_content
from pipeline.artifacts.staging import digest_of
from pipeline.artifacts.store import ArtifactStore
from tests.fixtures_s3 import BUCKET, S3Server
from tests.pipeline.artifacts.fixtures_shards import NAME, be_impatient, commit, put, read


@pytest.fixture
def store(any_store: ArtifactStore) -> ArtifactStore:
    return any_store


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "torn": lambda content: content[: len(content) // 2],
    "flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "grown": lambda content: content + b"!",
}


def test_a_commit_writes_its_files_and_one_seal(store: ArtifactStore, shards: Shards) -> None:
    assert shards.committed() == {}
    seal = shards.commit(
        "a", {"records/a.bin": b"one", "truth/a.bin": lambda path: path.write_bytes(b"two")}, 5, {"x": 1}
    )
    assert shards.committed() == {"a": seal}
    assert (seal.rows, seal.inputs, seal.facts) == (5, "inputs", {"x": 1})
    assert [(entry.path, entry.size) for entry in seal.files] == [("records/a.bin", 3), ("truth/a.bin", 3)]
    assert read(store, shards, "truth/a.bin") == b"two"
    names = sorted(str(path)[len(shards.path("")) :] for path in store.fs.find(shards.path("").rstrip("/")))
    assert names == [f"{SEALS}/a.json", "records/a.bin", "truth/a.bin"], "no temporary file is left"


def test_a_folder_is_committed_and_fetched(shards: Shards, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "a.txt").write_text("a")
    (tmp_path / "model" / "b.txt").write_text("b")
    seal = shards.commit("checkpoint", folder_content(tmp_path / "model"), 1)
    folder = shards.local(seal, tmp_path / "cache")
    assert ((folder / "deep" / "a.txt").read_text(), (folder / "b.txt").read_text()) == ("a", "b")


def test_the_first_writer_wins_and_the_second_adopts(store: ArtifactStore, shards: Shards) -> None:
    first = commit(shards, b"first")
    assert commit(shards, b"other") == first
    assert read(store, shards, f"{NAME}.parquet") == b"first"


@pytest.mark.parametrize("left", [b"", b"ro", b"rows", b"other rows"])
def test_a_file_without_a_seal_is_replaced(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    be_impatient(monkeypatch)
    put(store, shards, f"{NAME}.parquet", left)
    assert shards.committed() == {}
    seal = commit(shards)
    assert shards.committed() == {NAME: seal}
    assert read(store, shards, f"{NAME}.parquet") == b"rows"


def test_a_commit_of_other_inputs_is_made_again(store: ArtifactStore, shards: Shards) -> None:
    commit(shards, b"from other inputs", inputs="others")
    assert shards.committed() == {}
    assert shards.committed("others").keys() == {NAME}
    commit(shards)
    assert shards.committed().keys() == {NAME}
    assert read(store, shards, f"{NAME}.parquet") == b"rows"


@pytest.mark.parametrize("damage", [*DAMAGE, "deleted"])
@pytest.mark.parametrize("file", [f"{NAME}.parquet", f"{SEALS}/{NAME}.json"])
def test_a_damaged_shard_is_found_and_made_again(store: ArtifactStore, shards: Shards, damage: str, file: str) -> None:
    whole, other = commit(shards), commit(shards, b"other", "part-00001-of-00002")
    if damage == "deleted":
        store.fs.rm_file(shards.path(file))
    else:
        put(store, shards, file, DAMAGE[damage](read(store, shards, file)))
    assert shards.committed() == {"part-00001-of-00002": other}
    again = commit(shards)
    assert again.files == whole.files
    assert shards.committed() == {NAME: again, "part-00001-of-00002": other}


def test_a_dropped_commit_is_made_again(store: ArtifactStore, shards: Shards) -> None:
    commit(shards)
    shards.drop(NAME)
    shards.drop(NAME)
    assert shards.committed() == {}
    commit(shards)
    commit(shards, b"second", "part-00001-of-00002")
    shards.drop_all()
    assert shards.committed() == {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_any_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    store = ArtifactStore(str(tmp_path / uuid.uuid4().hex))
    shards = Shards(store, "kind/name/id/data-0", "inputs")
    content = data.draw(st.binary(min_size=1, max_size=200))
    seal = commit(shards, content)
    file = data.draw(st.sampled_from([f"{NAME}.parquet", f"{SEALS}/{NAME}.json"]))
    whole = read(store, shards, file)
    start = data.draw(st.integers(0, len(whole) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=8))
    changed = (whole[:start] + patch + whole[start + len(patch) :])[: data.draw(st.integers(0, len(whole)))]
    put(store, shards, file, changed)
    assert shards.committed() == ({NAME: seal} if changed == whole else {})


def test_shards_may_be_sent_to_workers(shards: Shards) -> None:
    import cloudpickle

    there: Shards = cloudpickle.loads(cloudpickle.dumps(shards))
    seal = commit(there)
    assert shards.committed() == {NAME: seal}


def test_a_rerun_reads_one_listing_and_no_data(s3: S3Server) -> None:
    shards = Shards(ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"), "kind/name/id/data-0", "inputs")
    for number in range(12):
        commit(shards, b"x" * 1000, f"part-{number:05d}-of-00012")
    s3.requests.clear()
    assert len(shards.committed()) == 12
    assert s3.requests["GET LIST"] == 1
    assert s3.requests["GET OBJECT"] == 12, "the seals, and no data: the ETags show that it is unchanged"


def test_a_seal_that_cannot_be_read_is_not_taken_for_absent(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(shards)
    denied = PermissionError(13, "denied")
    monkeypatch.setattr(shards._store.fs, "cat_ranges", lambda paths, *_, **__: [denied] * len(paths))
    with pytest.raises(PermissionError):
        shards.committed()
    with pytest.raises(PermissionError):
        shards.check_current([])


def test_a_summary_is_made_again_if_only_the_facts_of_its_shards_changed(store: ArtifactStore) -> None:
    first = commit(Shards(store, "kind/name/id/data-0", "inputs"))
    again = first.model_copy(update={"facts": {"rejects": [["a", "other reason", "c"]]}})
    assert first.files == again.files
    assert digest_of([first]) != digest_of([again])
