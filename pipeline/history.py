"""From a checkpoint's lineage to the history that its model card tells.

Only manifests are read, and the scores of the evaluations that the store holds. An input that is gone, or has other
content than what was read, is named as trouble, and nothing is said of it.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.errors import ArtifactError
from model.history import Evaluation, History, Score, Stage, Weights
from pipeline.artifacts.lineage import lineage
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.facts import artifact_facts, data_facts, evaluation_facts, mask_facts, row_of, source_of, stage_facts
from pipeline.fingerprints import Fingerprints
from pipeline.plan import VARIANT_ROWS
from pipeline.report.collect import VARIANT_NAMES

SCORES = "scores.json"
ROLES = {"text": "language model", "vision": "vision encoder", "florence": "Florence-2", "sam": "SAM"}
"""Parameters that are fingerprints of pretrained weights."""
PRIVATE = {"host", "job"}
"""What of a manifest's provenance is nobody's business outside."""


def history_of(store: ArtifactStore, checkpoint: Artifact, dtype: str) -> History:
    """Everything that the lineage of a checkpoint says. `dtype`: number format of its weights."""
    nodes = list(lineage(store, checkpoint))
    trouble = [f"{node.ref.path} {node.trouble}" for node in nodes if node.trouble]
    sound = list({n.ref.id: n.artifact for n in nodes if n.artifact is not None and not n.trouble}.values())
    chain = list(_stages(store, checkpoint))
    packs = _inputs(store, chain, "pack")
    masks = _inputs(store, chain, "masks")
    sources = [source_of(inventory) for pack in packs if (inventory := given(store, pack, "inventory")) is not None]
    evaluations = _evaluations(store, checkpoint, trouble)
    everything = sorted([*sound, *evaluations], key=lambda a: a.manifest.provenance.started)
    provenances = [artifact.manifest.provenance for artifact in everything]
    return History(
        artifact=checkpoint.ref.path,
        variant=_variant([row_of(stage) for stage in chain]),
        stages=tuple(map(_stage, chain)),
        dtype=dtype,
        trouble=tuple(dict.fromkeys(trouble)),
        weights=tuple(_weights(sound)),
        data={_title(pack, packs): data_facts(pack, given(store, pack, "inventory")) for pack in packs},
        masks={_title(each, masks): _mask_facts(store, each) for each in masks},
        rendered=len(sources) == len(packs) > 0 and all(source.get("kind") == "miniature" for source in sources),
        evaluations=tuple(_evaluation(store, artifact) for artifact in evaluations),
        commits=tuple(sorted({p.git_commit or "" for p in provenances})),
        versions=_versions(p.versions for p in provenances),
        artifacts=tuple(map(artifact_facts, everything)),
        lineage={
            "artifact": checkpoint.ref.path,
            "trouble": list(dict.fromkeys(trouble)),
            "artifacts": [_public(artifact) for artifact in everything],
        },
    )


def given(store: ArtifactStore, artifact: Artifact, name: str) -> Artifact | None:
    """An input as it was read; None if there is none of that name, or if it is not to be had any more."""
    pinned = artifact.manifest.parents.get(name)
    if pinned is None:
        return None
    try:
        found = store.get(pinned.ref)
    except ArtifactError:
        return None  # lineage() names it
    return found if found is not None and found.manifest.content_sha256 == pinned.content_sha256 else None


def _stages(store: ArtifactStore, checkpoint: Artifact) -> Iterator[Artifact]:
    """The checkpoint, and before it those that it was trained from, oldest first."""
    parent = given(store, checkpoint, "parent")
    if parent is not None:
        yield from _stages(store, parent)
    yield checkpoint


def _inputs(store: ArtifactStore, stages: list[Artifact], name: str) -> list[Artifact]:
    """The distinct inputs of that name, in the order in which they were first read."""
    found = [given(store, stage, name) for stage in stages]
    return list({artifact.ref.id: artifact for artifact in found if artifact is not None}.values())


def _variant(rows: list[str]) -> str | None:
    """The paper's name for what went through these rows; where the first of them are lost, the others decide."""
    for variant, last in VARIANT_ROWS.items():
        whole = ["stage1", "stage2", *last]
        if rows[-1] == whole[-1] and rows == whole[-len(rows) :]:
            return VARIANT_NAMES[variant]
    return None


def _stage(checkpoint: Artifact) -> Stage:
    said = checkpoint.manifest.statistics
    return Stage(
        row=row_of(checkpoint),
        artifact=short(checkpoint.ref.id),
        guidance=bool(said.get("losses", {}).get("guidance")),
        guided_rows=said.get("guided_rows"),
        trained=dict(said.get("trainable", {})),
        facts=stage_facts(checkpoint),
    )


def _mask_facts(store: ArtifactStore, masks: Artifact) -> Mapping[str, str]:
    segments = given(store, masks, "segments")
    return mask_facts(masks, segments, None if segments is None else given(store, segments, "subset"))


def _weights(artifacts: list[Artifact]) -> list[Weights]:
    """The pretrained weights whose fingerprints stand in the parameters, each once."""
    with tempfile.TemporaryDirectory(prefix="agevlm-") as cache:
        shipped = {key: Fingerprints(Path(cache)).weights(key, "miniature") for key in ROLES}
    found: dict[tuple[str, str], Weights] = {}
    for key, role in ROLES.items():
        for artifact in artifacts:
            value = artifact.manifest.spec.params.get(key)
            if isinstance(value, str):
                found[key, value] = Weights(role, value, value == shipped[key])
    return list(found.values())


def _evaluations(store: ArtifactStore, checkpoint: Artifact, trouble: list[str]) -> list[Artifact]:
    """The store's evaluations of these very weights; those that cannot be used are named in `trouble`."""
    found = []
    for ref in store.refs():
        if ref.kind != "evaluation":
            continue
        try:
            artifact = store.get(ref)
        except ArtifactError:
            trouble.append(f"{ref.path} has a damaged manifest, so it is not known whether it is of these weights")
            continue
        parent = None if artifact is None else artifact.manifest.parents.get("checkpoint")
        if artifact is None or parent is None or parent.ref != checkpoint.ref:
            continue
        problems = [problem.what for problem in artifact.verify() if problem.file == SCORES]
        if parent.content_sha256 != checkpoint.manifest.content_sha256:
            trouble.append(f"{ref.path} is of other weights, which had the same id")
        elif problems:
            trouble.append(f"{ref.path}: its file {SCORES} {problems[0]}")
        else:
            found.append(artifact)
    return found


def _evaluation(store: ArtifactStore, evaluation: Artifact) -> Evaluation:
    with evaluation.open(SCORES) as stream:
        rows = json.load(stream)["scores"]
    names = Score.__dataclass_fields__
    scores = tuple(Score(**{name: row[name] for name in names if name in row}) for row in rows)
    facts = evaluation_facts(evaluation, given(store, evaluation, "inventory"))
    return Evaluation(evaluation.ref.path, facts, scores)


def _versions(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Library -> its version, or all of them if artifacts were made with several."""
    several: dict[str, set[str]] = {}
    for versions in found:
        for name, value in versions.items():
            several.setdefault(name, set()).add(value)
    return {name: " and ".join(sorted(values)) for name, values in sorted(several.items())}


def _public(artifact: Artifact) -> dict[str, Any]:
    """A manifest as JSON, without its list of files and without names of machines."""
    body = artifact.manifest.model_dump(mode="json", exclude={"files": True, "data": True, "provenance": PRIVATE})
    return {**body, "content_sha256": artifact.manifest.content_sha256}


def _title(artifact: Artifact, among: list[Artifact]) -> str:
    """The artifact's name; with its id where another one of them has the same name."""
    alone = sum(other.ref.name == artifact.ref.name for other in among) == 1
    return artifact.ref.name if alone else f"{artifact.ref.name} {short(artifact.ref.id)}"
