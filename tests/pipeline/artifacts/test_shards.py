"""The commit protocol on a local disk and on an object store: after a kill or race a shard is intact or absent."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline.artifacts.shards as shards_module
from model.errors import ArtifactError, ConfigError
from pipeline.artifacts import filesystem
from pipeline.artifacts.shards import SEALS, Seal, Shards, folder_content
from pipeline.artifacts.staging import digest_of
from pipeline.artifacts.store import ArtifactStore
from tests.fixtures_s3 import BUCKET, S3Server, s3_server

NAME = "part-00000-of-00002"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        old = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        yield server
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "disk":
        return ArtifactStore(str(tmp_path / "store"))
    request.getfixturevalue("s3")
    return ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def shards(store: ArtifactStore) -> Shards:
    return Shards(store, "kind/name/id/data-0", "inputs")


def read(store: ArtifactStore, shards: Shards, file: str) -> bytes:
    content: bytes = store.fs.cat_file(shards.path(file))
    return content


def put(store: ArtifactStore, shards: Shards, file: str, content: bytes) -> None:
    """Write a file without the commit protocol."""
    store.fs.makedirs(os.path.dirname(shards.path(file)), exist_ok=True)
    store.fs.pipe_file(shards.path(file), content)


def commit(shards: Shards, content: bytes = b"rows", name: str = NAME, inputs: str | None = None) -> Seal:
    return shards.commit(name, {f"{name}.parquet": content}, 3, {"rejects": [["a", "b", "c"]]}, inputs)


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "OTHER_WRITER_SECONDS", {"disk": 0.1, "object store": 0.1})


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


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "torn": lambda content: content[: len(content) // 2],
    "flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "grown": lambda content: content + b"!",
}


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


@pytest.mark.parametrize("same", [True, False], ids=["the same bytes", "other bytes"])
def test_racing_writers_agree(store: ArtifactStore, shards: Shards, same: bool) -> None:
    """Six writers commit the same four shards; all get the same seals, whose files exist."""
    names = [f"part-0000{n}-of-00004" for n in range(4)]
    found: list[dict[str, Seal]] = []
    start = threading.Barrier(6)

    def write(writer: int) -> None:
        own = Shards(ArtifactStore(store.root), shards.folder, shards.inputs)
        start.wait()
        found.append({name: commit(own, f"{name} {0 if same else writer}".encode() * 50, name) for name in names})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all({n: s.files for n, s in each.items()} == {n: s.files for n, s in found[0].items()} for each in found)
    assert {name: seal.files for name, seal in shards.committed().items()} == {n: s.files for n, s in found[0].items()}


def test_a_writer_that_is_killed_between_file_and_seal_has_committed_nothing(
    store: ArtifactStore, shards: Shards
) -> None:
    code = f"""
        import os
        from pipeline.artifacts import filesystem
        from pipeline.artifacts.shards import Shards
        from pipeline.artifacts.store import ArtifactStore
        filesystem.create_bytes = lambda *_: os._exit(9)
        shards = Shards(ArtifactStore({store.root!r}), {shards.folder!r}, "inputs")
        shards.commit({NAME!r}, {{"{NAME}.parquet": b"rows"}}, 3)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == 9
    assert read(store, shards, f"{NAME}.parquet") == b"rows"
    assert shards.committed() == {}
    seal = commit(shards)
    assert shards.committed() == {NAME: seal}


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


def test_requests_to_a_store_that_refuses_for_a_while_are_retried(s3: S3Server) -> None:
    shards = Shards(ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"), "kind/name/id/data-0", "inputs")
    assert shards._store.fs.retries == filesystem.S3_ATTEMPTS
    s3.refuse(12)
    assert shards.committed() == {}
    s3.refuse(12)
    seal = commit(shards)
    assert s3.refused > 0
    assert shards.committed() == {NAME: seal}


def test_only_current_commits_are_published(store: ArtifactStore, shards: Shards) -> None:
    seal, other = commit(shards), commit(shards, b"other", "part-00001-of-00002")
    shards.check_current([seal, other])
    shards.drop(NAME)
    with pytest.raises(ArtifactError, match=rf"{NAME}\.parquet was replaced by another writer"):
        shards.check_current([seal, other])
    store.fs.rm_file(shards.path(f"{NAME}.parquet"))
    replaced = commit(shards, b"from another kind of device")
    shards.check_current([replaced, other])
    with pytest.raises(ArtifactError, match="run the step again"):
        shards.check_current([seal])


def test_nothing_of_a_published_artifact_is_removed_or_replaced(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    commit(shards)
    store.fs.pipe_file(store.join("kind/name/id/manifest.json"), b"{}")
    for act in (lambda: shards.drop(NAME), shards.drop_all):
        with pytest.raises(ArtifactError, match="kind/name/id was published meanwhile"):
            act()
    assert shards.committed().keys() == {NAME}
    store.fs.rm_file(shards.path(f"{SEALS}/{NAME}.json"))
    with pytest.raises(ArtifactError, match="was published meanwhile"):
        commit(shards, b"of a late writer")
    assert read(store, shards, f"{NAME}.parquet") == b"rows"


def test_a_seal_that_cannot_be_read_is_not_taken_for_absent(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(shards)
    denied = PermissionError(13, "denied")
    monkeypatch.setattr(shards._store.fs, "cat_ranges", lambda paths, *_, **__: [denied] * len(paths))
    with pytest.raises(PermissionError):
        shards.committed()
    with pytest.raises(PermissionError):
        shards.check_current([])


def test_seals_that_come_and_go_while_others_work_are_no_error(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = commit(shards)
    put(store, shards, f"{SEALS}/other.json.0123.partial", b"{")
    really = store.fs.find

    def find(path: str, **options: Any) -> Any:
        """The listing, with a seal that is removed just after it."""
        gone = {"size": 3, "type": "file"}
        return {**really(path, **options), shards.path(f"{SEALS}/gone.json"): gone}

    monkeypatch.setattr(shards._store.fs, "find", find)
    shards.check_current([seal])
    assert shards.committed() == {NAME: seal}


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"), "kind/name/id/data-0", "inputs")
    seal = commit(shards)
    really, expired = shards._store.fs.open, [OSError(errno.EBUSY, "the file changed")]

    def fs_open(*arguments: Any, **options: Any) -> Any:
        if expired:
            raise expired.pop()
        return really(*arguments, **options)

    monkeypatch.setattr(shards._store.fs, "open", fs_open)
    assert commit(shards) == seal
    assert not expired


@pytest.mark.parametrize("name", ["a[1]b", "a?b", "a*b", "a b#%20+é{1,2}", "a::b"])
def test_the_name_of_a_root_is_no_pattern(store: ArtifactStore, name: str) -> None:
    if not store.is_local and "::" in name:
        with pytest.raises(ConfigError, match="chains file systems"):
            ArtifactStore(f"{store.root}/{name}")
        return
    for sibling in ("a1b", "axb", "axxb"):
        store.fs.makedirs(store.join(sibling, "kind/name/ff"), exist_ok=True)
        store.fs.pipe_file(store.join(sibling, "kind/name/ff/manifest.json"), b"{}")
    odd = ArtifactStore(f"{store.root}/{name}")
    assert odd.base == store.join(name)
    shards = Shards(odd, "kind/name/id/data-0", "inputs")
    seal = commit(shards)
    shards.check_current([seal])
    assert shards.committed() == {NAME: seal}
    odd.fs.pipe_file(odd.join("kind/name/id/manifest.json"), b"{}")
    assert [ref.path for ref in odd.refs()] == ["kind/name/id"]
    filesystem.remove_tree(odd.fs, odd.join("kind"))
    filesystem.remove_tree(odd.fs, odd.join("kind"))
    assert list(odd.refs()) == []
    assert len(list(ArtifactStore(store.join("a1b") if store.is_local else f"{store.root}/a1b").refs())) == 1


def test_an_upload_that_a_rival_ended_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "draft").write_bytes(b"rows")
    calls: list[str] = []

    class Rival:
        protocol = ("s3",)

        def put_file(self, source: str, path: str, mode: str) -> None:
            calls.append(mode)
            if len(calls) == 1:
                raise FileNotFoundError("the upload does not exist")

    assert filesystem.create(Rival(), "bucket/file", tmp_path / "draft")
    assert calls == ["create", "create"]


@pytest.mark.parametrize(
    ("status", "code", "again"),
    [
        (503, "ServiceUnavailable", True),
        (500, "InternalError", True),
        (409, "ConditionalRequestConflict", True),
        (412, "PreconditionFailed", False),
        (404, "NoSuchKey", False),
        (403, "AccessDenied", False),
    ],
)
def test_only_errors_of_the_server_are_transient(status: int, code: str, again: bool) -> None:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert filesystem.is_transient(ClientError(answer, "PutObject")) is again
    assert filesystem.is_transient(EndpointConnectionError(endpoint_url="http://gone"))
    assert not filesystem.is_transient(ValueError("odd"))


def test_a_slow_writer_notices_that_its_file_was_replaced(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes so long between file and seal that another writer thinks it was killed and replaces the file."""
    be_impatient(monkeypatch)
    really, late = filesystem.create_bytes, [True]

    def create_bytes(fs: object, path: str, content: bytes) -> bool:
        if late:
            late.clear()
            store.fs.rm_file(shards.path(f"{NAME}.parquet"))
            put(store, shards, f"{NAME}.parquet", b"other writer")
        return really(fs, path, content)

    monkeypatch.setattr(filesystem, "create_bytes", create_bytes)
    seal = commit(shards)
    assert shards.committed() == {NAME: seal}
    assert read(store, shards, f"{NAME}.parquet") == b"rows"


@pytest.mark.parametrize("size", [0, 5, (110 << 20) + 7])
def test_the_version_of_an_upload_is_known_beforehand(s3: S3Server, tmp_path: Path, size: int) -> None:
    store, file = ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"), tmp_path / "file"
    with open(file, "wb") as stream:
        stream.truncate(size)
    assert filesystem.create(store.fs, store.join("file"), file)
    assert filesystem.version(store.fs.info(store.join("file"))) == filesystem.expected_version(store.fs, file)


def test_writers_that_never_agree_are_an_error(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shards, "_place", lambda *_: False)
    with pytest.raises(ArtifactError, match="cannot be committed: other writers keep sealing"):
        commit(shards)


def test_a_summary_is_made_again_if_only_the_facts_of_its_shards_changed(store: ArtifactStore) -> None:
    first = commit(Shards(store, "kind/name/id/data-0", "inputs"))
    again = first.model_copy(update={"facts": {"rejects": [["a", "other reason", "c"]]}})
    assert first.files == again.files
    assert digest_of([first]) != digest_of([again])
