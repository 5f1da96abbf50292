"""An exported data set opens with `datasets`, is whole or absent, and tells no names of machines."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from model.errors import ArtifactError, ConfigError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.dataset.export import export_dataset


def publish(store: ArtifactStore, kind: str) -> Artifact:
    spec = StepSpec(step=kind, revision=1, params={"word": "<script>|"}, inputs={})
    staging = Staging(store, ArtifactRef(kind=kind, name="x", id=spec.id()), spec, 0, {}, job="secret-job")
    for number in range(2):
        rows = [{"query": f"q{number}", "area": 3}] * (2 - 2 * number)
        schema = pa.schema([("query", pa.string()), ("area", pa.int64())])
        staging.write_table(f"part-0000{number}-of-00002.parquet", pa.Table.from_pylist(rows, schema=schema))
    staging.write_rejects([])
    return staging.publish(Counts(unit="query", rows_in=2, rows_out=2))


def test_datasets_opens_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")
    target = tmp_path / "out"
    export_dataset(artifact, target)
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(target), split="train", cache_dir=cache)
    assert rows["query"][:] == ["q0", "q0"]
    assert datasets.get_dataset_config_names(str(target)) == ["default"], "no table without rows"
    text = "".join((target / name).read_text() for name in ("README.md", "manifest.json", "lineage.json"))
    assert "secret-job" not in text
    assert "license: unknown" in text
    assert "&lt;script>\\|" in (target / "README.md").read_text()
    assert json.loads((target / "manifest.json").read_text())["content_sha256"] == artifact.manifest.content_sha256
    with pytest.raises(ConfigError, match="not an empty folder"):
        export_dataset(artifact, target)


def test_a_damaged_file_leaves_no_folder(tmp_path: Path) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")
    Path(artifact.path(artifact.files[0])).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is not what was published"):
        export_dataset(artifact, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_report_is_no_data_set(tmp_path: Path) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "report")
    with pytest.raises(ConfigError, match="kinds that can are inventory"):
        export_dataset(artifact, tmp_path / "out")
