"""The base of every configuration model: frozen, strict about names, and clear when it refuses a value."""

from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
LONGEST_VALUE = 200  # characters of a value that an error repeats


class Config(BaseModel):
    """A frozen configuration. Unknown fields are errors; every field's description gives its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def added_later(default: Any, **options: Any) -> Any:
    """A field that was added when artifacts existed already: left out of dumps while it has its default value.

    The id of an artifact is a hash of the dump of its parameters, so such a field changes no id where it is not used.
    `options` are those of pydantic's `Field`.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **options)


def explain(error: ValidationError, what: str) -> ConfigError:
    """Turn pydantic's error into one that names each field, its value and what is allowed."""
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or what
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            lines.append(f"{field}: there is no such field; check its spelling")
        elif item["type"] == "missing":
            lines.append(f"{field}: is missing; add it")
        elif isinstance(item["input"], Mapping) or len(repr(item["input"])) > LONGEST_VALUE:
            lines.append(f"{field}: {message}")  # a whole section says nothing; the message names what is wrong
        else:
            lines.append(f"{field} = {item['input']!r}: {message}")
    return ConfigError(f"{what} is not valid:\n  " + "\n  ".join(lines))


def validate(kind: type[Model], value: Any, what: str) -> Model:
    """Build a model from plain data; raises ConfigError naming field, value and remedy."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise explain(error, what) from error


def read_yaml(text: str, what: str) -> dict[str, Any]:
    """Parse YAML that must be a mapping; raises ConfigError with the place of the mistake."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must be a mapping of fields, but is {type(value).__name__}")
    return value
