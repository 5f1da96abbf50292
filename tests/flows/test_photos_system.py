"""The recipe 'photos' on a real stack: photographs with COCO annotations, from raw files to report and answer."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.store import Artifact, ArtifactStore
from tests.infra.local.test_stack_system import Home

PHOTOS = PROJECT.parent / "shared" / "data" / "coco_mini"

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the photographs are not here: {PHOTOS}"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A stack after a complete run of the recipe."""
    found = Home(tmp_path_factory.mktemp("photos") / "home")
    up = found.agevlm("up")
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        run = found.agevlm("run", "agevlm/full-recipe", "-p", "recipe=photos", "--watch", timeout=1400)
        assert run.returncode == 0, run.stdout + run.stderr
        assert re.search(r"^report +/.*report\.html$", run.stdout, re.MULTILINE)
        yield found
    finally:
        found.agevlm("down")


def made(home: Home) -> dict[str, Artifact]:
    """The run's artifacts by kind and name."""
    store = ArtifactStore(str(home.path / "artifacts"))
    return {f"{a.ref.kind}/{a.ref.name}": a for a in store.artifacts()}


def test_every_row_is_accounted_for(home: Home) -> None:
    artifacts = made(home)
    for name in ("pretrain", "instruct"):
        queries = pq.read_table(artifacts[f"subset/{name}"].local() / "queries")
        masks = artifacts[f"masks/{name}"]
        parts = sorted(masks.local().glob("part-*.parquet"))
        rows = [row for part in parts for row in pq.read_table(part, columns=["status", "reason", "rle"]).to_pylist()]
        assert len(rows) == len(queries) == masks.manifest.counts.rows_in
        for row in rows:
            assert row["status"] in ("ok", "low_quality", "no_region", "error")
            assert bool(row["rle"]) or row["status"] != "ok"
            assert row["reason"] or row["status"] in ("ok", "no_region")


def test_no_question_is_about_a_photograph_that_was_trained_on(home: Home) -> None:
    artifacts = made(home)

    def images(name: str) -> set[str]:
        return set(pq.read_table(artifacts[f"inventory/{name}"].local() / "records")["image_sha256"].to_pylist())

    asked = images("evaluation")
    assert asked
    assert asked.isdisjoint(images("pretrain") | images("instruct"))


def test_the_annotations_are_the_masks(home: Home) -> None:
    artifacts = made(home)
    page = (artifacts["report/photos"].local() / "report.html").read_text(encoding="utf-8")
    assert "Compared with the truth" in page
    for name in ("pretrain", "instruct"):
        assert artifacts[f"masks/{name}"].manifest.statistics["truth"]["overall"]["iou"]["mean"] == 1


def test_all_files_are_what_they_were(home: Home) -> None:
    assert home.agevlm("verify", "--all").returncode == 0


def test_the_student_answers_and_shows_where_it_looked(home: Home, tmp_path: Path) -> None:
    checkpoint = made(home)["checkpoint/stage4_lm"].ref.id
    photo = next((PHOTOS / "images" / "train2017").glob("*.jpg"))
    picture = tmp_path / "map.png"
    result = home.agevlm("ask", checkpoint[:12], str(photo), "Is there a person in the image?", "--map", str(picture))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    with Image.open(picture) as opened:
        assert min(opened.size) > 100
