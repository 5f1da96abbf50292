"""The source of docs/add-a-source.md works as it is written there: planned and read, in a copy of the project."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.store import ArtifactStore

pytestmark = pytest.mark.system
RECIPE = """
name: lines
description: questions in tab-separated lines
variants: [age_vlm]
data:
  pretrain: {source: &source {kind: tsv, lines: questions.tsv, images: pictures}, subset: 2, query: question}
  instruct: {source: *source, subset: 2, query: question}
  evaluation: {source: *source}
weights: {florence: miniature, sam: miniature, text: miniature, vision: miniature}
max_reject_share: 0.5
student: {cross_attention_layers: [1, 3, 5]}
training: {common: {global_batch: 2, learning_rate: 5.0e-4, precision: fp32}}
"""


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the edits that the document describes."""
    module, settings, union, location, row = re.findall(
        r"```python\n(.*?)```", (PROJECT / "docs" / "add-a-source.md").read_text("utf-8"), re.DOTALL
    )
    copy = tmp_path / "project"
    for folder in ("flows", "pipeline", "model", "infra"):
        shutil.copytree(PROJECT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    sources = copy / "pipeline" / "sources"
    (sources / "tsv.py").write_text(module, encoding="utf-8")
    old_union = "AnySource = CambrianSource | FolderSource | ParquetSource | MiniatureSource\n"
    replace(sources / "config.py", old_union, f"{settings}\n\n{union}")
    replace(sources / "config.py", '    "miniature": (),\n', f'    "miniature": (),\n{location}')
    replace(sources / "table.py", '    "miniature": SourceKind(\n', f'{row}    "miniature": SourceKind(\n')
    imported = "from pipeline.sources.parquet import ParquetReader, parquet_archives\n"
    replace(sources / "table.py", imported, f"{imported}from pipeline.sources.tsv import TsvReader\n")
    return copy


def test_the_documented_source_is_planned_and_read(project: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "red" if name == "a" else "blue").save(tmp_path / "pictures" / f"{name}.png")
    lines = ["a.png\tWhat colour is it?\tred", "b.png\tWhat colour is it?\tblue", "c.png\tIs it there?\tno", "a.png"]
    (tmp_path / "questions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "lines.yaml").write_text(RECIPE, encoding="utf-8")
    home = {"AGEVLM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(project), "PATH": "/usr/bin:/bin"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", *arguments]
        return subprocess.run(command, env=home, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    planned = run("flows", "plan", "lines.yaml", "--until", "inventory-pretrain", "--json", "specs")
    assert "inventory-pretrain" in planned
    (spec,) = (tmp_path / "specs").glob("*inventory-pretrain*.json")
    run("pipeline", "run", str(spec))
    (artifact,) = ArtifactStore(str(tmp_path / "home" / "artifacts")).artifacts()
    counts = artifact.manifest.counts
    assert (counts.rows_in, counts.rows_out, counts.total_rejected) == (4, 2, 2)
    assert json.loads(spec.read_text())["spec"]["params"]["source"] == {"kind": "tsv"}
