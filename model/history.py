"""How a student came to be: what a model card says beside its configuration.

Plain facts without an opinion and without the pipeline; `pipeline.history` reads them from a checkpoint's lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Facts = Mapping[str, str]
"""What -> its value, as text in the order in which it is shown."""


@dataclass(frozen=True)
class Weights:
    """Pretrained weights that were used. `role`: 'language model', 'vision encoder', 'Florence-2' or 'SAM'.

    fingerprint: their checksum, or 'hub:ORG/NAME@COMMIT'. shipped: they are the miniature ones that come with agevlm.
    """

    role: str
    fingerprint: str
    shipped: bool = False

    @property
    def hub_name(self) -> str | None:
        """'ORG/NAME' of weights that came from a hub."""
        if not self.fingerprint.startswith("hub:"):
            return None
        return self.fingerprint.removeprefix("hub:").split("@")[0]


@dataclass(frozen=True)
class Stage:
    """One training stage that was run.

    row: of the stage table. guidance: whether the guidance loss counted. guided_rows: rows that it acted on, None if
    that was not recorded. trained: part of the model -> parameters that trained.
    """

    row: str
    artifact: str
    guidance: bool
    guided_rows: int | None
    trained: Mapping[str, int]
    facts: Facts


@dataclass(frozen=True)
class Score:
    """One number with its 95 % interval. chance: what a model that does not look would get, None if unknown."""

    title: str
    value: float
    low: float
    high: float
    n: int
    chance: float | None = None
    chance_name: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the very weights."""

    artifact: str
    facts: Facts
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class History:
    """Everything that the lineage of a checkpoint says.

    artifact: the checkpoint's kind, name and id. variant: 'AGE-VLM' or another of the paper's names, None if the
    weights are not the end of one. stages: oldest first. trouble: what of the lineage is gone or was replaced; the
    facts about it are left out. data, masks: title -> facts. rendered: every image was drawn, none is a photograph.
    dtype: number format of the checkpoint, which was evaluated. commits: of the code, '' for one that was not recorded.
    lineage: the whole chain as JSON, for machines.
    """

    artifact: str
    variant: str | None
    stages: tuple[Stage, ...]
    dtype: str
    trouble: tuple[str, ...] = ()
    weights: tuple[Weights, ...] = ()
    data: Mapping[str, Facts] = field(default_factory=dict)
    masks: Mapping[str, Facts] = field(default_factory=dict)
    rendered: bool = False
    evaluations: tuple[Evaluation, ...] = ()
    commits: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Facts, ...] = ()
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every stage is known: the first trained what no other stage had trained before."""
        return bool(self.stages) and self.stages[0].row == "stage1"

    @property
    def guided(self) -> tuple[Stage, ...]:
        """The stages in which the guidance loss acted on at least one row."""
        return tuple(s for s in self.stages if s.guidance and s.guided_rows)

    @property
    def guidance(self) -> Literal["acted", "idle", "off", "unknown"]:
        """Whether the guidance loss acted; 'idle': it counted, but no row had a mask; 'unknown': not recorded."""
        if self.guided:
            return "acted"
        wanted = [s for s in self.stages if s.guidance]
        if not self.complete or any(s.guided_rows is None for s in wanted):
            return "unknown"
        return "idle" if wanted else "off"
