"""The table of teachers. A new teacher is one module and one row; the row names its code as a string."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.errors import ConfigError
from pipeline.masks.config import TeacherConfig, TeacherSetup

if TYPE_CHECKING:  # the plan reads this table, and needs no pictures
    from pipeline.masks.teachers.interface import Phase

OF_SHARDS = frozenset({"kind", "max_query_characters", "shard_images"})
"""Settings that decide every teacher's evidence: those of the queries and of the shards."""
OF_FLORENCE_SAM = frozenset(TeacherConfig.model_fields)


@dataclass(frozen=True)
class TeacherKind:
    """One row of the table."""

    phases: tuple[str, ...]
    """'module:function' of each phase, in order; the function takes a TeacherSetup and returns a `Phase`."""
    settings: frozenset[str] = frozenset()
    """Fields of TeacherConfig that it reads, besides OF_SHARDS. The others have no part in its id."""
    carried: tuple[str, ...] = ()
    """'module:class' of the results of each phase but the last; they go to the next phase's process as JSON."""
    weights: tuple[str, ...] = ()
    """Roles of the recipe's weights that it needs. One without weights gets no GPU."""
    needs_truth: bool = False
    """True if it reads the ground truth of the inventory."""
    needs_pixels: bool = True
    """False if its pictures need not be read."""
    about: str = ""
    """A sentence for the report: how it makes masks."""


TEACHERS: dict[str, TeacherKind] = {
    "florence_sam": TeacherKind(
        phases=(
            "pipeline.masks.teachers.florence_sam:open_finder",
            "pipeline.masks.teachers.florence_sam:open_segmenter",
        ),
        settings=OF_FLORENCE_SAM,
        carried=("model.teachers.finding:Found",),
        weights=("florence", "sam"),
        about="Florence-2 reads a text and answers with regions, which prompt SAM.",
    ),
    "truth": TeacherKind(
        phases=("pipeline.masks.teachers.truth:open_truth",),
        needs_truth=True,
        needs_pixels=False,
        about="The masks are the source's own, exact or drawn by people; no model made them.",
    ),
}


def teacher_kind(name: str) -> TeacherKind:
    """The row of a teacher. Raises ConfigError if there is none."""
    if name not in TEACHERS:
        raise ConfigError(f"teacher.kind = '{name}': there is no such teacher; give one of {', '.join(TEACHERS)}")
    return TEACHERS[name]


def only_used(config: TeacherConfig) -> TeacherConfig:
    """The settings with the defaults of what the teacher does not read, so that it is in no id."""
    used = OF_SHARDS | teacher_kind(config.kind).settings
    fields = TeacherConfig.model_fields.items()
    return config.model_copy(update={name: field.default for name, field in fields if name not in used})


def settings_read(params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the teacher in parameters of the step segment, without those that it does not read."""
    given: dict[str, Any] = dict(params.get("teacher", {}))
    kind = TEACHERS.get(given.get("kind", ""))
    return given if kind is None else {name: v for name, v in given.items() if name in OF_SHARDS | kind.settings}


def open_phases(setup: TeacherSetup, first: int = 0, last: int | None = None) -> list[Phase]:
    """Load the phases [first, last) of a teacher; by default all. Raises ConfigError if weights cannot be opened."""
    return open_entries(teacher_kind(setup.config.kind).phases[first:last], setup)


def open_entries(entries: Sequence[str], setup: TeacherSetup) -> list[Phase]:
    """Load phases by their 'module:function'. Raises ConfigError if weights cannot be opened."""
    return [named(entry)(setup) for entry in entries]


def named(entry: str) -> Any:
    """The object that 'module:name' names."""
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)
