"""Versions of the libraries that results can depend on: what an artifact was made with, and what is installed now."""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = (
    *("ray", "torch", "torchvision", "transformers", "tokenizers", "timm", "segment-anything"),
    *("pyarrow", "numpy", "pillow", "simplejpeg", "pycocotools", "jinja2"),
)


def library_versions() -> dict[str, str]:
    """The installed version of each library, and Python's; without importing them. Missing ones are left out."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def other_versions(made_with: Mapping[str, str], now: Mapping[str, str], libraries: Iterable[str]) -> str:
    """The libraries whose version differs, as 'made with torch 2.14.0, now 2.15.0'; '' if there are none.

    A library that is not recorded in `made_with` is left out: nothing is known about it.
    """
    found = [
        f"{name} {made_with[name]}, now {now.get(name, 'not installed')}"
        for name in libraries
        if name in made_with and made_with[name] != now.get(name)
    ]
    return f"made with {'; '.join(found)}" if found else ""
