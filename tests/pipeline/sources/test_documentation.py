"""docs/data.md names every reason, repair and change that the code counts by."""

import re

import pytest

import pipeline.sources.images.references as references
from pipeline.artifacts.paths import PROJECT

FILES = [
    *sorted((PROJECT / "pipeline" / "sources").rglob("*.py")),
    *(PROJECT / "model" / name for name in ("images.py", "jpeg.py", "containers.py")),
]
REJECTION = re.compile(
    r"""(?:ImageError|BadEntry|BadConversation|rejected)\(\s*"([a-z_]+)"|Rejected\([^"]*"([a-z_]+)"|reason="([a-z_]+)\""""
)
CHANGE = re.compile(r"""(?:changes\.append\(|else \[\]\),\s*\*?\(?|\*\(\[)"([a-z_]+)\"""")


def names(pattern: re.Pattern[str]) -> set[str]:
    found = (match for file in FILES for match in pattern.findall(file.read_text(encoding="utf-8")))
    return {name for groups in found for name in ([groups] if isinstance(groups, str) else groups) if name}


@pytest.mark.parametrize(
    ("found", "known"),
    [
        (names(REJECTION), {"missing_image", "malformed_json", "no_caption", "malformed_csv", "line_too_long", "bomb"}),
        (names(CHANGE), {"image_list", "role_alias", "leading_turn_dropped", "image_token_moved"}),
        (
            {v for k, v in vars(references).items() if k.isupper() and isinstance(v, str)},
            {"dot_prefix", "case", "archive_prefix"},
        ),
    ],
    ids=["rejects", "changes", "repairs"],
)
def test_every_name_is_in_the_documents(found: set[str], known: set[str]) -> None:
    assert known <= found
    text = (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")
    assert sorted(name for name in found if f"`{name}`" not in text) == []
