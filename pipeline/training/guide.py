"""tmp"""

from pathlib import Path


def open_guide(path: Path):
    raise NotImplementedError
