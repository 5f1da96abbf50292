"""Texts that a user types for an artifact: ids, paths, tags, steps and latest; never ambiguous in silence."""

import uuid
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ArtifactError, ConfigError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.artifacts.tags import HEX, NAME, check_name
from tests.fixtures_s3 import BUCKET, S3Server
from tests.pipeline.artifacts.fixtures_writers import at_once


def publish(store: ArtifactStore, step: str, kind: str, name: str, word: str, later: float = 0.0) -> Artifact:
    spec = StepSpec(step=step, revision=1, params={"word": word}, inputs={})
    staging = Staging(store, ArtifactRef(kind=kind, name=name, id=spec.id()), spec, 0, {})
    staging._started += timedelta(seconds=later)  # a start is recorded to the second
    staging.write_bytes("file", word.encode())
    return staging.publish(Counts(unit="row", rows_in=1, rows_out=1))


def fill(store: ArtifactStore) -> dict[str, Artifact]:
    return {
        "segments": publish(store, "segment", "segments", "pretrain", "s"),
        "masks": publish(store, "masks", "masks", "pretrain", "m"),
        "stage4": publish(store, "stage4", "checkpoint", "stage4_lm", "c"),
        "newer": publish(store, "masks", "masks", "pretrain", "n", later=1),
    }


@pytest.fixture
def made(any_store: ArtifactStore) -> dict[str, Artifact]:
    return fill(any_store)


@pytest.fixture(scope="module", params=["disk", "s3"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Artifacts of a store that the tests only read."""
    if request.param == "disk":
        return fill(ArtifactStore(str(tmp_path_factory.mktemp("names"))))
    request.getfixturevalue("s3")
    return fill(ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"))


@pytest.mark.parametrize(
    ("text", "kinds", "found"),
    [
        ("stage4_lm", (), "stage4"),
        ("checkpoint/stage4_lm", (), "stage4"),
        ("checkpoint/latest", (), "stage4"),
        ("latest", ("checkpoint",), "stage4"),
        ("latest", (), "newer"),
        ("latest", ("masks", "segments"), "newer"),
        ("masks/pretrain/latest", (), "newer"),
        ("masks-pretrain", (), "newer"),
        ("segment-pretrain", (), "segments"),
        ("segments", (), "segments"),
        ("pretrain", ("segments",), "segments"),
    ],
)
def test_names_mean_the_newest_artifact(
    filled: dict[str, Artifact], text: str, kinds: tuple[str, ...], found: str
) -> None:
    assert filled[found].store.find(text, *kinds).ref == filled[found].ref


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pretrain", "ambiguous: masks/pretrain, segments/pretrain; write one of these"),
        ("nothing", "no artifact, tag or step is called 'nothing'"),
        ("masks/other", "no masks is called 'other'; names are pretrain"),
        ("../masks", "write KIND/NAME/ID; kinds are checkpoint, masks, segments"),
        ("runs/x", "write KIND/NAME/ID"),
        ("masks/pretrain/ffff0000", "no artifact's id starts with"),
        (" ", "not an artifact id"),
        ("", "not an artifact id"),
        ("..", "no artifact, tag or step"),
        ("-x", "no artifact, tag or step"),
        ("masks/../segments", "no masks is called '..'"),
        ("masks/pretrain/..", "no artifact's id starts with"),
        ("masks/pretrain/x/y", "write KIND/NAME/ID"),
        ("masks/pret*", "no masks is called"),
        ("masks/pretrain/*", "no artifact's id starts with"),
        ("*", "no artifact, tag or step"),
        ("[a-z]*", "no artifact, tag or step"),
        ("MASKS", "no artifact, tag or step"),
        ("Latest", "no artifact, tag or step"),
        ("masks/pretrain/Latest", "no artifact's id starts with"),
        ("caf\u00e9", "no artifact, tag or step"),
        ("masks\0", "no artifact, tag or step"),
        ("masks/pretrain/" + "\x1b" * 64, "no artifact's id starts with"),
        ("masks/pretrain/" + "\x7f" * 64, "no artifact's id starts with"),
        ("x" * 10_000, "no artifact, tag or step"),
        ("a" * 10_000, "no artifact"),
        ("masks/" + "x" * 10_000, "no masks is called"),
        ("/etc/passwd", "kinds are"),
    ],
)
def test_what_means_nothing_is_refused(filled: dict[str, Artifact], text: str, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        filled["masks"].store.find(text)
    assert len(str(caught.value)) < 700


def test_a_tag_is_made_moved_and_removed(any_store: ArtifactStore, made: dict[str, Artifact]) -> None:
    store, tags = any_store, any_store.tags
    tags.put("best-masks", made["masks"].ref)
    assert store.find("best-masks").ref == made["masks"].ref
    tags.put("best-masks", made["masks"].ref)
    with pytest.raises(ConfigError, match="--move"):
        tags.put("best-masks", made["newer"].ref)
    moved = tags.put("best-masks", made["newer"].ref, move=True)
    assert moved.earlier == made["masks"].ref
    assert store.find("best-masks").ref == made["newer"].ref
    assert [tag.name for tag in tags.all()] == ["best-masks"]
    store.fs.rm_file(store.manifest_path(made["newer"].ref))
    with pytest.raises(ArtifactError, match="gone: 'agevlm untag best-masks'"):
        store.find("best-masks")
    tags.remove("best-masks")
    assert list(tags.all()) == []
    with pytest.raises(ConfigError, match="there is no tag"):
        tags.remove("best-masks")
    tags.put("best-masks", made["masks"].ref)
    assert store.find("best-masks").ref == made["masks"].ref


TAG = """
from model.errors import ConfigError
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.store import ArtifactStore
store, ref = ArtifactStore(sys.argv[1]), ArtifactRef(kind="masks", name="x", id="1" * 64)
begin()
wins = 0
for n in range(8):
    try:
        store.tags.put("best", ref.model_copy(update={"name": f"{id(store)}-{n}"}), move=True)
        wins += 1
    except ConfigError:
        continue
print(wins)
"""


@pytest.mark.parametrize("any_store", ["disk", pytest.param("s3", marks=pytest.mark.system)], indirect=True)
def test_two_who_move_a_tag_at_once_never_both_believe_it(any_store: ArtifactStore) -> None:
    wins = [int(output) for output in at_once(TAG, any_store.root, processes=2)]
    changes = any_store.fs.find(any_store.join("tags", "best"))
    assert len(changes) == sum(wins), "each success is one change that the next one knew of"


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "", ".x", "-x", "a" * 81, "a b", "caf\u00e9", "x\n", "cafe", "00ff", "latest", "LATEST", "Latest"],
)
def test_a_name_that_is_no_path_part_or_reads_as_an_id_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="tag '"):
        check_name(name)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=90))
def test_accepted_names_are_safe_path_parts(name: str) -> None:
    try:
        check_name(name, {"masks"})
    except ConfigError:
        return
    assert NAME.fullmatch(name)
    assert not HEX.fullmatch(name)
    assert "/" not in name
    assert name.lower() not in (".", "..", "masks", "latest")


def test_a_tag_and_a_whole_path_list_no_artifacts(s3: S3Server, any_store: ArtifactStore) -> None:
    if any_store.is_local:
        pytest.skip("requests are counted on the object store")
    refs = [publish(any_store, "masks", "masks", "x", str(n)).ref for n in range(12)]
    any_store.tags.put("best", refs[3])
    for text, most in (("best", 4), (refs[5].path, 5), (refs[5].id, 6)):
        s3.requests.clear()
        assert any_store.find_ref(text) in refs
        assert sum(s3.requests.values()) <= most, (text, s3.requests)
