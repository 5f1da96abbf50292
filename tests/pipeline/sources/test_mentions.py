"""Finding the categories that a caption mentions."""

import pytest

from pipeline.sources.mentions import SYNONYMS, Mentions, plural

COCO = ["person", "dog", "hot dog", "bear", "teddy bear", "knife", "mouse", "bus", "skis", "sheep", "couch", "train"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A dog and two MEN.", {"dog", "person"}),
        ("A hot dog on a plate", {"hot dog"}),
        ("hot dogs and dogs", {"hot dog", "dog"}),
        ("a teddy bear beside a bear", {"teddy bear", "bear"}),
        ("Knives, mice and buses.", {"knife", "mouse", "bus"}),
        ("A man in training is doing dogmatic things on a sofa", {"person", "couch"}),
        ("skis and sheep", {"skis", "sheep"}),
        ("nothing at all", set()),
        ("", set()),
    ],
)
def test_mentions(text: str, found: set[str]) -> None:
    assert Mentions(COCO).find(text) == found


def test_without_categories_nothing_is_found() -> None:
    assert Mentions([]).find("a dog") == set()


def test_no_synonym_belongs_to_two_categories() -> None:
    words = [word for group in SYNONYMS.values() for word in group]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("name", "many"),
    [
        *(("dog", "dogs"), ("bus", "buses"), ("couch", "couches"), ("baby", "babies"), ("toy", "toys")),
        *(("wine glass", "wine glasses"), ("skis", "skis"), ("person", "people"), ("mouse", "mice")),
    ],
)
def test_plural(name: str, many: str) -> None:
    assert plural(name) == many
