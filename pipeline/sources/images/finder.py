"""Finds the image that a reference names: exactly, or by named rules of repair."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from model.errors import ImageError
from pipeline.sources.images import references as rules
from pipeline.sources.images.store import ImageStore


class Found(NamedTuple):
    """The place of an image."""

    locator: str
    repairs: tuple[str, ...]
    """Names of the rules that were needed, in the order of their use."""


@dataclass
class Finder:
    """Finds images in a folder and in the listed members of archives.

    A file in the folder goes before a member of an archive. Of two members with one name the later one of the first
    archive counts, as if the archives were extracted in the opposite order of their names.
    """

    images: ImageStore
    prefixes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Archive -> its name without suffix, and the folders that all its members are in."""
    _exact: dict[str, str] = field(default_factory=dict)
    _similar: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, members: Iterable[tuple[str, str]]) -> None:
        """Add the members (path, locator) of one archive."""
        fresh = dict(members)
        for path, locator in fresh.items():
            if path not in self._exact:
                self._exact[path] = locator
                self._similar[rules.folded(path)].add(path)

    def find(self, reference: str) -> Found:
        """The place of the image. Raises ImageError with the reason why there is none."""
        path, repairs = rules.tidied(reference, self.images.aliases)
        rules.check_safe(path, absolute=bool(self.prefixes))
        folder = None if path.startswith("/") else self.images.folder
        problem = ImageError("missing_image", f"image {reference!r} is in none of the archives")
        if folder is not None:
            try:
                return Found(folder.find(path), repairs)
            except ImageError as error:
                if error.reason != "missing_image":
                    raise
                problem = error
        if path in self._exact:
            return Found(self._exact[path], repairs)
        found = folder.find_similar(path) if folder is not None else None
        if found is not None:
            return Found(found[0], (*repairs, *found[1]))
        member = self._member(path) if self.prefixes else None
        if member is None:
            raise problem
        return Found(member.locator, (*repairs, *member.repairs))

    def _member(self, path: str) -> Found | None:
        if path.startswith("/"):
            found = self._member(rules.tidy(path.lstrip("/")))
            return found and Found(found.locator, (rules.ABSOLUTE_PATH, *found.repairs))
        for name, repairs in self._spellings(path):
            if name in self._exact:
                return Found(self._exact[name], repairs)
        for name, repairs in self._spellings(path):
            like = rules.only_like(name, self._similar.get(rules.folded(name), ()))
            if like is not None:
                return Found(self._exact[like[0]], (*repairs, like[1]))
        return None

    def _spellings(self, path: str) -> Iterable[tuple[str, tuple[str, ...]]]:
        """The paths under which a member may be listed, and the rules that lead to them."""
        yield path, ()
        seen = {path}
        for stem, prefix in self.prefixes.values():
            folders = prefix.split("/") if prefix else []
            for count in range(1, len(folders) + 1):
                longer = "/".join([*folders[:count], path])
                if longer not in seen:
                    seen.add(longer)
                    yield longer, (rules.ARCHIVE_PREFIX,)
            if path.startswith(f"{stem}/") and path[len(stem) + 1 :] not in seen:
                seen.add(path[len(stem) + 1 :])
                yield path[len(stem) + 1 :], (rules.ARCHIVE_FOLDER,)
