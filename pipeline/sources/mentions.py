"""Finds the COCO categories that a caption mentions."""

import re
from collections.abc import Iterable

_PEOPLE = (
    *("people", "crowd", "man", "men", "woman", "women", "guy", "guys", "lady", "ladies", "pedestrian", "pedestrians"),
    *("boy", "boys", "girl", "girls", "child", "children", "kid", "kids", "baby", "babies", "toddler", "toddlers"),
    *("player", "players", "rider", "riders", "skier", "skiers", "surfer", "surfers", "snowboarder", "snowboarders"),
    *("skateboarder", "skateboarders"),
)
# Words that captions use for a category beside its name and the name's plural. Ambiguous words are left out.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": _PEOPLE,
    "bicycle": ("bike", "bikes"),
    "motorcycle": ("motorbike", "motorbikes", "moped", "mopeds"),
    "airplane": ("plane", "planes", "jet", "jets", "aeroplane", "aeroplanes", "aircraft", "airliner", "airliners"),
    "car": ("taxi", "taxis", "cab", "cabs"),
    "boat": ("ship", "ships", "sailboat", "sailboats", "canoe", "canoes", "kayak", "kayaks"),
    "traffic light": ("stoplight", "stoplights", "traffic signal", "traffic signals"),
    "fire hydrant": ("hydrant", "hydrants"),
    "cat": ("kitten", "kittens"),
    "dog": ("puppy", "puppies"),
    "cow": ("cattle", "bull", "bulls", "calf", "calves"),
    "sheep": ("lamb", "lambs"),
    "horse": ("pony", "ponies"),
    "bird": ("duck", "ducks", "seagull", "seagulls", "pigeon", "pigeons", "goose", "geese", "parrot", "parrots"),
    "handbag": ("purse", "purses"),
    "tie": ("necktie", "neckties"),
    "sports ball": ("soccer ball", "tennis ball", "baseball", "basketball", "football"),
    "donut": ("doughnut", "doughnuts"),
    "couch": ("sofa", "sofas"),
    "potted plant": ("houseplant", "houseplants"),
    "dining table": ("table", "tables"),
    "tv": ("television", "televisions", "tvs", "monitor", "monitors"),
    "laptop": ("notebook computer",),
    "cell phone": ("cellphone", "cellphones", "smartphone", "smartphones", "mobile phone"),
    "refrigerator": ("fridge", "fridges"),
    "teddy bear": ("stuffed bear", "stuffed bears"),
    "hair drier": ("hair dryer", "hairdryer"),
}
_IRREGULAR = {"person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep", "broccoli": "broccoli"}


def plural(name: str) -> str:
    """The plural of a category's name."""
    head, _, last = name.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        last = last if last in ("skis", "scissors") else f"{last}es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = f"{last[:-1]}ies"
    else:
        last = f"{last}s"
    return f"{head} {last}".strip()


class Mentions:
    """Finds category names in captions. A longer name hides a shorter one in it: 'hot dog' does not mention a dog."""

    def __init__(self, categories: Iterable[str]) -> None:
        """Prepare for these categories."""
        self._category: dict[str, str] = {}
        known = list(categories)
        for name in known:
            for word in SYNONYMS.get(name, ()):
                self._category.setdefault(word, name)
        for name in known:
            self._category[plural(name).lower()] = self._category[name.lower()] = name
        words = sorted(self._category, key=lambda word: (-len(word), word))
        self._pattern = re.compile(r"\b(" + "|".join(re.escape(word) for word in words) + r")\b") if words else None

    def find(self, text: str) -> set[str]:
        """The categories that a text mentions."""
        if self._pattern is None:
            return set()
        return {self._category[match] for match in self._pattern.findall(text.lower())}
