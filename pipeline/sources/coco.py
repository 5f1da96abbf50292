"""COCO's instance annotations: the categories in an image, and one mask for each.

An annotation that cannot be used is left out and counted by the name of its fault. What depends on it is in doubt: its
category in its image, or the whole image if its category is not known.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from pipeline.sources.coco_file import BadEntry, Findings, ImageTable, entry_name, id_of, read_json
from pipeline.sources.records import Truth
from pipeline.sources.segmentation import read_segmentation


class Categories:
    """COCO's list of categories. Names that differ in case or white space only are one category."""

    def __init__(self, categories: list[Any], findings: Findings) -> None:
        """Read the list. Entries that cannot be used, or contradict each other, are added to `findings`."""
        self._findings = findings
        self._names: dict[int | str, str] = {}
        self._listed: set[Any] = set()  # the ids as they are written
        self._two_names: set[int | str] = set()
        self._spelling: dict[str, str] = {}
        for number, entry in enumerate(categories, 1):
            try:
                self._add(entry)
            except BadEntry as error:
                findings.reject(entry_name("category", number, entry), error)

    def _add(self, entry: Any) -> None:
        key, name = (id_of(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if key is None or not isinstance(name, str) or not name.strip():
            raise BadEntry("bad_category", "has no id that is a whole number or a text, or no name")
        name = " ".join(name.split())
        name = self._spelling.setdefault(name.casefold(), name)
        self._listed.add(entry["id"])
        known = self._names.setdefault(key, name)
        if known != name:
            self._two_names.add(key)
            raise BadEntry("duplicate_category_id", f"is {name!r}, but the same id was {known!r} before")

    @property
    def names(self) -> list[str]:
        """All names once, in the order of their ids: numbers, then texts."""
        keys = sorted(self._names, key=lambda key: (isinstance(key, str), key))
        return list(dict.fromkeys(self._names[key] for key in keys))

    def find(self, category_id: Any) -> str:
        """The name of an id. Raises BadEntry.

        The reasons are 'unknown_category' for a number that is not listed, which is another class of object, and
        'bad_category_id' for anything else, which may stand for any of the categories.
        """
        key = id_of(category_id)
        if isinstance(key, int) and key not in self._names:
            raise BadEntry("unknown_category", f"category_id {category_id!r:.50} is not in 'categories'")
        if key is None or key not in self._names or key in self._two_names:
            raise BadEntry("bad_category_id", f"category_id {category_id!r:.50} is no category's, or two categories'")
        if category_id not in self._listed:
            self._findings.repaired["id_in_another_form"] += 1
        return self._names[key]


class Instances:
    """The instances of a COCO file, by image file name and category name. Crowd regions count as instances."""

    def __init__(self, path: Path) -> None:
        """Read a COCO instances file, and check every mask. Raises DataError if it is not COCO's format at all."""
        raw = read_json(path, "images", "annotations", "categories")
        self.findings = Findings(path)
        """The entries that were left out or repaired."""
        self._images = ImageTable(raw["images"], self.findings)
        self._categories = Categories(raw["categories"], self.findings)
        self._masks: dict[str, dict[str, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        self._doubts: dict[str, set[str]] = defaultdict(set)
        self._doubtful = set(self._images.contradictory)
        for number, annotation in enumerate(raw["annotations"], 1):
            try:
                self._add(annotation)
            except BadEntry as error:
                self.findings.reject(entry_name("annotation", number, annotation), error)

    def _add(self, annotation: Any) -> None:
        if not isinstance(annotation, dict):
            raise BadEntry("bad_annotation", f"is {type(annotation).__name__}, not an object")
        file = self._images.find(annotation.get("image_id"))
        if file in self._images.contradictory:
            raise BadEntry("duplicate_file_name", f"image {file} has two sizes, or an id that is not its own")
        try:
            name = self._categories.find(annotation.get("category_id"))
        except BadEntry as error:
            if error.reason == "bad_category_id":
                self._doubtful.add(file)
            raise
        try:
            size = self._images.sizes[file]
            if size is None:
                raise BadEntry("bad_image_size", f"image {file} has no usable height and width")
            mask = read_segmentation(annotation.get("segmentation"), *size)
        except BadEntry:
            self._doubts[file].add(name)
            raise
        self._masks[file][name].append(mask.counts)
        if mask.repair:
            self.findings.repaired[mask.repair] += 1

    @property
    def files(self) -> list[str]:
        """File names of the annotated images, in the file's order."""
        return list(self._images.sizes)

    @property
    def categories(self) -> list[str]:
        """All category names, in the order of their ids: numbers, then texts."""
        return self._categories.names

    def present(self, file: str) -> list[str]:
        """The categories that are certainly in an image, sorted; without those in doubt."""
        return sorted(name for name in self._masks.get(file, ()) if not self.in_doubt(file, [name]))

    def in_doubt(self, file: str, categories: Iterable[str]) -> bool:
        """True if an annotation that was left out may be about one of these categories in this image."""
        return any(file in self._doubtful or name in self._doubts.get(file, ()) for name in categories)

    def by_frequency(self) -> list[str]:
        """The categories that occur in some image, the most frequent first."""
        counts = Counter(name for categories in self._masks.values() for name in categories)
        return sorted(counts, key=lambda name: (-counts[name], name))

    def truth(self, file: str, categories: Iterable[str]) -> Truth | None:
        """The union mask of all instances of these categories in an image; None if it has none or is in doubt."""
        wanted, masks, size = list(categories), self._masks.get(file, {}), self._images.sizes.get(file)
        counts = [mask for name in wanted for mask in masks.get(name, [])]
        if size is None or not counts or self.in_doubt(file, wanted):
            return None
        union = coco.merge([{"size": list(size), "counts": mask} for mask in counts])
        return Truth(True, *size, union["counts"].decode("ascii"))
