"""Results of a teacher's phase as JSON, for the next phase in another process. No pickle: the class says the types."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

Results = list[list[Any]]
"""A frozen dataclass without tensors for each query of each picture."""


def to_json(found: Sequence[Sequence[Any]]) -> str:
    """The results as JSON. Numbers keep their value to the last bit."""
    return json.dumps([[dataclasses.asdict(result) for result in own] for own in found])


def from_json(text: str, kind: type[Any]) -> Results:
    """The results of `to_json`, which were of this dataclass. Raises ValueError if they were not."""
    found: Results = TypeAdapter(list[list[kind]]).validate_python(json.loads(text))  # type: ignore[valid-type]
    return found
