"""Tags: names that people give to artifacts. `tags/<name>/<n>.json` is the n-th change of one; the largest n holds.

A change creates the object with the next number, only if absent. So of two people who move a tag at once, one is told
that the other was first. Earlier targets stay as the tag's history.
"""

import getpass
import platform
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import ArtifactError, ConfigError
from pipeline.artifacts import filesystem
from pipeline.artifacts.numbered import Numbered
from pipeline.artifacts.spec import ArtifactRef

TAGS = "tags"
LATEST = "latest"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""Characters that are safe in a path and in an object's name."""
HEX = re.compile(r"[0-9A-Fa-f]+")
"""A name of these characters only would read as the first digits of an id."""


class Tag(BaseModel):
    """One change of a tag. A removed tag has no target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    target: ArtifactRef | None
    earlier: ArtifactRef | None = Field(default=None, description="the target before this change")
    by: str = Field(description="user and host")
    at: str = Field(description="UTC, ISO 8601")


class Tags:
    """The tags of a store.

    Args:
        fs: the store's file system.
        base: full path of the store's root.
    """

    def __init__(self, fs: Any, base: str) -> None:
        self._fs, self._folder = fs, f"{base}/{TAGS}"

    def get(self, name: str) -> Tag | None:
        """A tag; None if there is none of that name. Raises ArtifactError if its object is damaged."""
        return self._latest(name)[1] if NAME.fullmatch(name) else None

    def all(self) -> Iterator[Tag]:
        """Every tag, sorted by name."""
        for name in self._names():
            tag = self.get(name)
            if tag is not None:
                yield tag

    def put(self, name: str, target: ArtifactRef, move: bool = False, taken: Collection[str] = ()) -> Tag:
        """Give an artifact a name.

        Args:
            name: the name.
            target: the artifact.
            move: take the name from another artifact that has it.
            taken: names that mean something else, such as kinds and steps.

        Raises ConfigError if the name cannot be used, is another artifact's and `move` is not given, or was changed by
        another process at the same time.
        """
        check_name(name, taken)
        number, now = self._latest(name)
        if now is not None and now.target == target:
            return now
        if now is not None and not move:
            raise ConfigError(f"tag '{name}' is {now.target} already; give --move to move it to {target}")
        return self._change(name, number, now, target)

    def remove(self, name: str) -> Tag:
        """Remove a tag; its artifact stays. Returns the tag as it was. Raises ConfigError if there is none."""
        number, now = self._latest(name) if NAME.fullmatch(name) else (0, None)
        if now is None:
            raise ConfigError(f"there is no tag '{name}'; 'agevlm tags' lists them")
        self._change(name, number, now, None)
        return now

    def _change(self, name: str, number: int, now: Tag | None, target: ArtifactRef | None) -> Tag:
        tag = Tag(
            name=name,
            target=target,
            earlier=None if now is None else now.target,
            by=f"{_user()}@{platform.node()}",
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        if not self._objects(name).create(number + 1, tag.model_dump(mode="json")):
            raise ConfigError(f"tag '{name}' was changed by another process at the same time; look at it and try again")
        return tag

    def _latest(self, name: str) -> tuple[int, Tag | None]:
        objects = self._objects(name)
        number = objects.current()
        if number == 0:
            return 0, None
        try:
            tag = Tag.model_validate(objects.read(number))
        except ValidationError as error:
            raise ArtifactError(
                f"tag '{name}': {objects.path(number)} is damaged; move it out of the store and tag again"
            ) from error
        return number, None if tag.target is None else tag

    def _objects(self, name: str) -> Numbered:
        return Numbered(self._fs, f"{self._folder}/{name}")

    def _names(self) -> list[str]:
        found = {path[len(self._folder) + 1 :].split("/")[0] for path in filesystem.files(self._fs, self._folder)}
        return sorted(name for name in found if NAME.fullmatch(name))


def check_name(name: str, taken: Collection[str] = ()) -> None:
    """Raise ConfigError unless a name can be a tag."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"tag '{name}': write 1 to 80 of the characters A-Z a-z 0-9 . _ - with a letter or digit first"
        )
    if HEX.fullmatch(name):
        raise ConfigError(
            f"tag '{name}' reads as the first digits of an id; add a letter after f or a sign: 'v-{name}'"
        )
    if name.lower() == LATEST or name in taken:
        raise ConfigError(f"tag '{name}': this name means the newest artifact of a kind or step already; take another")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "?"
