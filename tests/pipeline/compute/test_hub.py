"""Weights from a hub, without network access."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from model.errors import ConfigError
from pipeline.compute.hub import local_folder
from pipeline.packing.config import TOKENIZER_FILES


def test_a_hub_name_is_fetched_at_that_commit_and_only_the_files_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        if name == "org/nothing":
            raise OSError("no such repository")
        return "/cache/llama"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert local_folder("text", "hub:org/llama@" + "0" * 40, TOKENIZER_FILES) == Path("/cache/llama")
    assert (asked["name"], asked["revision"]) == ("org/llama", "0" * 40)
    assert not any(pattern.endswith("safetensors") for pattern in asked["allow_patterns"])
    with pytest.raises(ConfigError, match=r"weights\.vision = .* cannot be fetched: no such repository"):
        local_folder("vision", "hub:org/nothing@" + "0" * 40)
    assert local_folder("text", "/weights/llama") == Path("/weights/llama")
