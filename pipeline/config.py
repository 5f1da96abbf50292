"""The base of every configuration model: frozen, strict about names, and clear when it refuses a value."""

from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
MOST_VALUES = 100_000
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


def _size(value: Any, sizes: dict[int, int]) -> int:
    """The number of values in lists and mappings. What an alias repeats is counted once more for each alias."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = MOST_VALUES + 1  # while it is counted: it is met again only if it holds itself
        inside = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_size(one, sizes) for one in inside)
    return sizes[id(value)]


def read_yaml(text: str, what: str) -> dict[str, Any]:
    """Parse YAML that must be a mapping; raises ConfigError with the place of the mistake."""
    try:
        value = yaml.safe_load(text)
        size = _size(value, {})
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{what} is nested too deep") from error
    except ValueError as error:  # a date that is none, or a number of thousands of digits
        raise ConfigError(f"{what} has a value that cannot be read: {error}") from error
    if size > MOST_VALUES:
        raise ConfigError(f"{what} has more than {MOST_VALUES} values, those that aliases repeat included")
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must be a mapping of fields, but is {type(value).__name__}")
    return value
