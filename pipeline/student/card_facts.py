"""The facts of a model card: a checkpoint's lineage and evaluations, read from the manifests of the store.

An input that is gone, or has other content than what was read, is listed in `trouble` and left out of the card.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from model.errors import ArtifactError
from model.stage_table import STAGE_STEPS, STAGES, VARIANT_NAMES, VARIANT_ROWS, trains
from pipeline.artifacts.lineage import lineage, parent_problem
from pipeline.artifacts.paths import scratch_folder
from pipeline.artifacts.store import Artifact
from pipeline.compute import hub
from pipeline.plan.fingerprints import Fingerprints

SCORES = "scores.json"
ROLES = {"text": "language model", "vision": "vision encoder", "florence": "Florence-2", "sam": "SAM"}
"""Parameters that are fingerprints of pretrained weights, and their names in the card."""
BACKBONES = ("language model", "vision encoder")
PRIVATE = {"host", "job", "origin"}
"""Fields of a manifest's provenance that are not published."""
Origin = tuple[str, str, bool]
"""Role of pretrained weights, fingerprint (a checksum, or 'hub:ORG/NAME@COMMIT'), True if they ship with agevlm."""


@dataclass(frozen=True)
class CardFacts:
    """The artifacts that a model card is written from.

    stages: the checkpoint (last) and the checkpoints before it, oldest first, as far back as they are known.
    evaluations: the store's evaluations of exactly these weights.
    artifacts: everything that is known of the lineage, and the evaluations, by time.
    trouble: the inputs and evaluations that cannot be used, each with the reason.
    """

    stages: tuple[Artifact, ...]
    evaluations: tuple[Artifact, ...]
    artifacts: tuple[Artifact, ...]
    trouble: tuple[str, ...]

    @property
    def rows(self) -> list[str]:
        """Rows of the stage table that were trained, in order."""
        return [stage.ref.name for stage in self.stages]

    @property
    def variant(self) -> str | None:
        """The paper's name of a finished variant; where the first stages are lost, the later ones decide."""
        for variant, last in VARIANT_ROWS.items():
            if self.rows == [*STAGE_STEPS[:2], *last][-len(self.rows) :]:
                return VARIANT_NAMES[variant]
        return None

    @property
    def complete(self) -> bool:
        """True if every stage is known: the oldest is the first one."""
        return self.rows[0] == STAGE_STEPS[0]

    @property
    def guided_rows(self) -> dict[str, int | None]:
        """Stage whose loss included guidance -> number of rows with a mask; None if that was not recorded."""
        return {s.ref.name: s.manifest.statistics.get("guided_rows") for s in self.stages if guidance_counted(s)}

    @property
    def guidance(self) -> Literal["acted", "idle", "off", "unknown"]:
        """The effect of the guidance loss. 'idle': no row had a mask; 'unknown': not recorded, or a stage is lost."""
        numbers = self.guided_rows.values()
        if any(numbers):
            return "acted"
        if None in numbers or not self.complete:
            return "unknown"
        return "idle" if numbers else "off"

    @property
    def scheduled(self) -> bool:
        """True if the weight of the guidance loss changed during the last stage that had one."""
        guided = [stage for stage in self.stages if guidance_counted(stage)]
        return bool(guided) and len(guided[-1].manifest.spec.params.get("config", {}).get("guidance_schedule", ())) > 1

    @property
    def rendered(self) -> bool:
        """True if every picture that a stage trained on is known to be drawn by the miniature world."""
        sources = [inputs_of(stage, "pack", "inventory")[0] for stage in self.stages]
        kinds = {source.manifest.spec.params.get("source", {}).get("kind") for source in sources}
        return self.complete and kinds == {"miniature"}

    @property
    def weights(self) -> list[Origin]:
        """The pretrained weights that the lineage names, each once."""
        named = [(role, a.manifest.spec.params.get(key)) for key, role in ROLES.items() for a in self.artifacts]
        origins = dict.fromkeys((role, value) for role, value in named if isinstance(value, str))
        return [(role, value, value in _shipped_weights()) for role, value in origins]

    @property
    def all_shipped(self) -> bool:
        """True if all that the weights were made from comes with agevlm: both backbones, teachers and pictures."""
        known = {role for role, *_ in self.weights} >= set(BACKBONES)
        return known and self.rendered and all(shipped for *_, shipped in self.weights)

    @property
    def hub_backbones(self) -> list[str]:
        """'ORG/NAME' of the backbones that came from a hub."""
        found = [value for role, value, _ in self.weights if role in BACKBONES and value.startswith(hub.PREFIX)]
        return [value.removeprefix(hub.PREFIX).split("@")[0] for value in found]

    @property
    def lineage(self) -> dict[str, Any]:
        """The manifests as JSON, without their lists of files and without names of machines."""
        hidden: dict[str, Any] = {"files": True, "data": True, "provenance": PRIVATE}
        bodies = [
            {**a.manifest.model_dump(mode="json", exclude=hidden), "content_sha256": a.manifest.content_sha256}
            for a in self.artifacts
        ]
        return {"artifact": self.stages[-1].ref.path, "trouble": list(self.trouble), "artifacts": bodies}

    @property
    def made_with(self) -> list[str]:
        """The git commits of the code, and 'LIBRARY VERSION' of every library; one that changed comes twice."""
        told = [a.manifest.provenance for a in self.artifacts]
        commits = {"an unrecorded git commit" if p.git_commit is None else f"git commit `{p.git_commit}`" for p in told}
        return sorted(commits) + sorted({f"{name} {version}" for p in told for name, version in p.versions.items()})

    def of_kind(self, *kinds: str) -> list[Artifact]:
        """The artifacts of the lineage that have one of these kinds, oldest first."""
        return [a for a in self.artifacts if a.ref.kind in kinds]


def read_card_facts(checkpoint: Artifact) -> CardFacts:
    """Read the lineage of a checkpoint and the evaluations of its weights."""
    nodes = list(lineage(checkpoint.store, checkpoint))[::-1]  # inputs first
    trouble = [f"{node.ref.path} {node.trouble}" for node in nodes if node.trouble]
    usable = {n.ref.id: n.artifact for n in nodes if n.artifact is not None and not n.trouble}
    evaluations = list(_evaluations(checkpoint, trouble))
    artifacts = sorted([*usable.values(), *evaluations], key=lambda a: a.manifest.provenance.started)
    stages = inputs_of(checkpoint, *["parent"] * len(STAGE_STEPS))
    return CardFacts(tuple(stages), tuple(evaluations), tuple(artifacts), tuple(dict.fromkeys(trouble)))


def parent_of(artifact: Artifact, name: str) -> Artifact | None:
    """The input `name` with the content that was read; None if there is no such input, or it is gone or replaced."""
    pinned = artifact.manifest.parents.get(name)
    try:
        found = artifact.store.get(pinned.ref) if pinned else None
    except ArtifactError:
        return None  # read_card_facts lists it as trouble
    return None if parent_problem(pinned, found) else found


def inputs_of(artifact: Artifact, *above: str) -> list[Artifact]:
    """The artifact behind its input of the first name, that one's input of the second name, and so on; oldest first."""
    parent = parent_of(artifact, above[0]) if above else None
    return [artifact] if parent is None else [*inputs_of(parent, *above[1:]), artifact]


def guidance_counted(stage: Artifact) -> bool:
    """True if the stage's loss included guidance."""
    return bool(stage.manifest.statistics.get("losses", {}).get("guidance"))


def trained_parts(stage: Artifact) -> list[str]:
    """The parts of the model that had trainable parameters, and how much of a part if not all of it."""
    how = trains(STAGES[stage.ref.name]) if stage.ref.name in STAGES else {}
    parts = [part for part, count in stage.manifest.statistics.get("trainable", {}).items() if count]
    return [part if how.get(part, "trained") == "trained" else f"{part} ({how[part]})" for part in parts]


def scores_of(evaluation: Artifact) -> list[dict[str, Any]]:
    """The rows of an evaluation's scores.json (`pipeline.evaluation.scores.Score.to_json`)."""
    with evaluation.open(SCORES) as stream:
        rows: list[dict[str, Any]] = json.load(stream)["scores"]
    return rows


@cache
def _shipped_weights() -> frozenset[str]:
    fingerprints = Fingerprints(scratch_folder())
    return frozenset(fingerprints.weights(key, "miniature") for key in ROLES)


def _evaluations(checkpoint: Artifact, trouble: list[str]) -> Iterator[Artifact]:
    """The store's evaluations of exactly these weights; those that cannot be used are added to `trouble`."""
    for ref in checkpoint.store.refs():
        if ref.kind != "evaluation":
            continue
        try:
            artifact = checkpoint.store.get(ref)
        except ArtifactError:
            trouble.append(f"{ref.path} has a damaged manifest, so it is not known whether it is of these weights")
            continue
        parent = artifact.manifest.parents.get("checkpoint") if artifact else None
        if artifact is None or parent is None or parent.ref != checkpoint.ref:
            continue
        problems = [f"{ref.path}: its file {SCORES} {p.what}" for p in artifact.verify() if p.file == SCORES]
        if parent_problem(parent, checkpoint):
            problems = [f"{ref.path} is of other weights, which had the same id"]
        trouble += problems
        if not problems:
            yield artifact
