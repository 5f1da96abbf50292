"""Versions of libraries: recorded, and compared with those of an artifact."""

from pipeline.artifacts.versions import library_versions, other_versions


def test_installed_libraries_are_listed_with_their_versions() -> None:
    import torch

    assert library_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_only_what_differs_decides_and_is_known_is_named() -> None:
    made = {"torch": "2.14.0", "timm": "1.0", "numpy": "2.0"}
    now = {"torch": "2.15.0", "timm": "1.0", "numpy": "2.1", "pillow": "11"}
    assert other_versions(made, now, ("torch", "timm", "pillow")) == "made with torch 2.14.0, now 2.15.0"
    assert other_versions(made, now, ("torch", "numpy")) == "made with torch 2.14.0, now 2.15.0; numpy 2.0, now 2.1"
    assert other_versions(made, {}, ("timm",)) == "made with timm 1.0, now not installed"
    assert other_versions(made, now, ("timm",)) == ""
