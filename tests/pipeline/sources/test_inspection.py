"""Images are opened in parallel, in order, and only once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.config import CambrianSource
from pipeline.sources.images import ImageFacts
from pipeline.sources.index import build_index
from pipeline.sources.inspection import Inspector
from pipeline.sources.records import Entry, Record, Rejected
from pipeline.sources.table import ImageFolder
from tests.pipeline.sources.test_index import Listed, record


class Recorder:
    """Workers that open nothing and record the images they get."""

    width = 3

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        self.asked.update(args[1])
        return args[1]

    def result(self, handle: Any) -> list[ImageFacts]:
        return [ImageFacts(sha256=f"sha of {reference}", width=1, height=1) for reference in handle]


IMAGES = ImageFolder(CambrianSource(annotations="none", images="images"), Path("scratch"))
images = st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=60)


@settings(max_examples=80)
@given(images, st.integers(1, 7))
def test_every_image_is_opened_once_and_every_record_gets_its_facts(numbers: list[int | None], size: int) -> None:
    entries: list[Entry] = [record(n, None if i is None else f"{i}.jpg") for n, i in enumerate(numbers)]
    entries.append(Rejected("x", "malformed_json", "line"))
    source, workers = Listed(entries), Recorder()
    index = build_index(source, 0)
    inspector = Inspector(IMAGES, index, workers)
    walked = list(index.walk(source))
    batches = [walked[start : start + size] for start in range(0, len(walked), size)]
    rows = [row for batch in inspector.inspect(batches) for row in batch]
    assert [entry for entry, _ in rows] == walked
    for entry, facts in rows:
        if isinstance(entry, Record) and entry.image is not None:
            assert facts is not None
            assert facts.sha256 == f"sha of {entry.image}"
        else:
            assert facts is None
    assert set(workers.asked.values()) <= {1}
    assert inspector.opened == sum(workers.asked.values()) == index.images


def test_an_image_is_forgotten_after_its_last_record() -> None:
    entries: list[Entry] = [record(n, f"{n % 5}.jpg") for n in range(50)]
    source, workers = Listed(entries), Recorder()
    inspector = Inspector(IMAGES, build_index(source, 0), workers)
    list(inspector.inspect([entries[:25], entries[25:]]))
    assert not inspector._known
    assert not inspector._left
    assert not inspector._claimed
