"""`agevlm report` finds the newest report and names it by a short path."""

import webbrowser
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.plan.recipe import available
from tests.flows.cli.fixtures_command_line import agevlm


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path / "store"))
    return ArtifactStore(str(tmp_path / "store"))


def publish(store: ArtifactStore, recipe: str, tag: str = "", kind: str = "report", day: int = 1) -> Artifact:
    spec = StepSpec(step=kind, revision=1, params={"recipe": recipe, "tag": tag}, inputs={})
    staging = Staging(store, ArtifactRef(kind=kind, name=recipe, id=spec.id()), spec, 0, {}, None, None)
    staging._started = datetime(2026, 1, day, tzinfo=UTC)
    staging.write_bytes("report.html", tag.encode())
    return staging.publish(Counts(unit="page", rows_in=1, rows_out=1), {})


def shown(*arguments: str) -> Path:
    result = agevlm("report", *arguments)
    assert (result.code, result.error) == (0, "")
    return Path(result.output.strip())


def test_the_newest_report_is_found_of_any_recipe_or_of_one(store: ArtifactStore) -> None:
    publish(store, "miniature", "old")
    publish(store, "miniature", "new", day=2)
    publish(store, "photos", "other", day=3)
    publish(store, "photos", "no report", kind="masks", day=4)
    assert shown() == Path(store.root, "report", "photos", "latest", "report.html")
    page = shown("miniature")
    assert page == Path(store.root, "report", "miniature", "latest", "report.html")
    assert page.read_text() == "new"


def test_without_its_link_a_report_is_named_by_its_long_path(store: ArtifactStore) -> None:
    artifact = publish(store, "miniature")
    Path(store.root, "report", "miniature", "latest").unlink()
    assert shown() == Path(artifact.path("report.html"))


def test_a_recipe_may_be_a_file(store: ArtifactStore, tmp_path: Path) -> None:
    text = available()["miniature"].read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("name: miniature", "name: my-own"))
    publish(store, "my-own", "mine")
    publish(store, "miniature")
    assert shown(str(tmp_path / "mine.yaml")).read_text() == "mine"


def test_the_page_is_opened_in_the_browser(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, "miniature")
    opened: list[str] = []

    def browser(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", browser)
    shown()
    assert opened == []
    assert shown("--open").as_uri() == opened[0]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    result = agevlm("report", "--open")
    assert result.code == 1
    assert "no browser was found; open " in result.error


@pytest.mark.parametrize(("arguments", "words"), [([], "there is no report in"), (["photos"], "recipe 'photos' in")])
def test_a_store_without_a_report_is_an_error_with_a_remedy(
    arguments: list[str], words: str, store: ArtifactStore
) -> None:
    publish(store, "miniature", kind="masks")
    result = agevlm("report", *arguments)
    assert result.code == 1
    assert words in result.error
    assert "'agevlm demo'" in result.error
