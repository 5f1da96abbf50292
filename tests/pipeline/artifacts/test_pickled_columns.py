"""Columns of pickled objects, which Ray Data would load, are refused in every process that reads Parquet."""

import ast
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from pipeline.artifacts.paths import PROJECT

WRITE = """
import os, pickle, sys
import pyarrow as pa, pyarrow.parquet as pq
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType
class Planted:
    def __reduce__(self):
        return os.mkdir, (sys.argv[2],)
column = ArrowPythonObjectType().wrap_array(pa.array([pickle.dumps(Planted())], type=pa.large_binary()))
pq.write_table(pa.table({"a": column, "b": pa.array([1])}), sys.argv[1])
"""
READ = "\nimport sys\nimport pyarrow.parquet as pq\nprint(pq.read_table(sys.argv[1]).to_pylist())"
OURS, RAY = "import pipeline.artifacts.pickled_columns", "import ray.data"
READERS = {"read_table", "ParquetFile", "ParquetDataset", "open_stream", "open_file", "dataset", "read_schema"}


def run(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Parquet file with a pickle that makes a folder when it is loaded, and that folder."""
    folder = tmp_path_factory.mktemp("planted")
    written = run(WRITE, folder / "table.parquet", folder / "loaded")
    assert written.returncode == 0, written.stderr
    return folder / "table.parquet", folder / "loaded"


@pytest.mark.parametrize("imports", [f"{OURS}; {RAY}", f"{RAY}; {OURS}"], ids=["before ray.data", "after ray.data"])
def test_a_planted_pickle_is_refused(imports: str, planted: tuple[Path, Path]) -> None:
    table, loaded = planted
    found = run(imports + READ, table)
    assert "pickled Python objects" in found.stderr
    assert not loaded.exists()


def test_the_other_columns_of_such_a_file_can_be_read(planted: tuple[Path, Path]) -> None:
    found = run(f"{OURS}; {RAY}" + READ.replace(").to", ", columns=['b']).to"), planted[0])
    assert found.stdout == "[{'b': 1}]\n"


def reads_tables(module: str) -> bool:
    tree = ast.parse((PROJECT / f"{module.replace('.', '/')}.py").read_text())
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in READERS for call in calls)


def test_every_module_of_the_pipeline_that_reads_tables_refuses_them() -> None:
    graph = grimp.build_graph("pipeline", "model", include_external_packages=True, cache_dir=None)
    readers = [m for m in graph.find_modules_that_directly_import("pyarrow") if reads_tables(m)]
    assert "pipeline.sources.parquet" in readers
    guard = "pipeline.artifacts.pickled_columns"
    assert [module for module in readers if not graph.chain_exists(importer=module, imported=guard)] == []
