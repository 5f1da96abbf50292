"""Makes faulty:// known to fsspec in every process whose PYTHONPATH has this folder; the class is imported on use."""

from fsspec.registry import register_implementation

register_implementation("faulty", "tests.fixtures_faulty_store.FaultyFileSystem")
