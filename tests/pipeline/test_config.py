"""Errors of a wrong configuration: they name field, value and remedy, and never repeat a whole section."""

from itertools import pairwise
from typing import Self

import pytest
from pydantic import Field, model_validator

from model.errors import ConfigError
from pipeline.config import Config, added_later, read_yaml, validate


class Inner(Config):
    size: int = Field(ge=1, description="pixels")


class Outer(Config):
    name: str
    inner: Inner

    @model_validator(mode="after")
    def _not_twice(self) -> Self:
        if self.name == "twice":
            raise ValueError("name each thing once")
        return self


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"name": "a", "inner": {"size": 0}}, "inner.size = 0: Input should be greater than or equal to 1"),
        ({"name": "a", "inner": {"size": 1, "sise": 2}}, "inner.sise: there is no such field; check its spelling"),
        ({"inner": {"size": 1}}, "name: is missing; add it"),
        ({"name": 7, "inner": {"size": 1}}, "name = 7: Input should be a valid string"),
    ],
)
def test_a_wrong_value_is_named(value: object, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(Outer, value, "the file x.yaml")
    assert str(raised.value) == f"the file x.yaml is not valid:\n  {words}"


def test_a_section_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as raised:
        validate(Outer, {"name": "twice", "inner": {"size": 1}}, "the file x.yaml")
    assert str(raised.value) == "the file x.yaml is not valid:\n  the file x.yaml: name each thing once"
    with pytest.raises(ConfigError) as raised:
        validate(Outer, {"name": ["long"] * 1000, "inner": {"size": 1}}, "x")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(("text", "words"), [("a: [", "is not YAML"), ("- a", "must be a mapping of fields")])
def test_yaml_that_is_not_a_mapping_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_yaml(text, "x.yaml")


class Grown(Config):
    name: str
    kind: str = added_later("plain", min_length=3, description="a field of a later version")


def test_a_field_that_was_added_later_is_in_dumps_only_if_it_is_used() -> None:
    assert Grown(name="a").model_dump() == Grown(name="a", kind="plain").model_dump(mode="json") == {"name": "a"}
    assert Grown(name="a", kind="other").model_dump(mode="json") == {"name": "a", "kind": "other"}
    assert Grown.model_validate({"name": "a"}).kind == "plain"
    with pytest.raises(ConfigError, match="kind = 'x'"):
        validate(Grown, {"name": "a", "kind": "x"}, "the file x.yaml")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !!python/object/apply:os.system ['touch pwned']", "is not YAML"),
        ("a: !!python/name:os.system", "is not YAML"),
        ("a: !!python/module:os", "is not YAML"),
        (BOMB, "values, those that aliases repeat included"),
        (BOMB + "name: *j", "values, those that aliases repeat included"),
        ("a: &a [*a]", "values, those that aliases repeat included"),
        ("a: " + "[" * 3000, "nested too deep"),
        ("a: 2020-99-99", "cannot be read: month must be in 1..12"),
        ("a: " + "9" * 6000, "cannot be read"),
        ("a: \0", "is not YAML"),
        ("- a", "must be a mapping"),
    ],
    ids=range(11),
)
def test_hostile_yaml_is_refused_at_once(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(text, "recipe 'x'")
    assert len(str(caught.value)) < 600


def test_aliases_of_a_usual_recipe_are_fine() -> None:
    assert read_yaml("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}", "x")["c"] == {"x": [1, 2], "y": 3}
