"""Fixtures of the tests of the proof of alignment."""

from pathlib import Path

import pytest

from pipeline.packing.chat import ChatFormat, TextFormat
from pipeline.packing.formats import PlainFormat
from pipeline.training.alignment.words import Words


@pytest.fixture(scope="session")
def forms(backbones: dict[str, str]) -> list[TextFormat]:
    """The backbone's chat template, and plain captions."""
    folder = Path(backbones["text"])
    return [ChatFormat(folder), ChatFormat(folder, "Be short."), PlainFormat(folder)]


@pytest.fixture(scope="session")
def words(forms: list[TextFormat]) -> Words:
    """Reads the tokens of these formats."""
    return Words(forms[0].tokenizer)
