"""A changed step needs a new revision, or its change must be declared neutral."""

from pathlib import Path

import pytest

from pipeline.plan.step_table import STEPS
from tests.pipeline.plan import revisions


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_sources_are_those_of_the_recorded_revision(name: str) -> None:
    recorded, current = revisions.recorded()[name], revisions.current()[name]
    assert current == recorded, (
        f"the code of step '{name}' is not what was recorded for revision {recorded['revision']}. If results can "
        "differ, bump the step's revision in pipeline/plan/step_table.py; then run "
        f"'python -m tests.pipeline.plan.revisions accept', with '--neutral {name}' if they cannot"
    )


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_source_exists(name: str) -> None:
    for source in STEPS[name].sources:
        assert (revisions.ROOT / source).exists(), source


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_file_that_a_step_imports_is_declared(name: str) -> None:
    assert revisions.unlisted(STEPS[name]) == [], "add them to the step's sources, or to FRAME if they decide nothing"


def test_a_change_without_a_new_revision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "revisions.json"
    monkeypatch.setattr(revisions, "RECORD", record)
    revisions.accept([])
    record.write_text(record.read_text().replace(str(revisions.current()["masks"]["sources"]), "0" * 64))
    assert "masks" in revisions.undeclared()
    with pytest.raises(SystemExit, match="masks changed but not the revision"):
        revisions.accept([])
    revisions.accept(["masks"])
    assert revisions.undeclared() == []
