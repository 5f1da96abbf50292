"""Lineage: an artifact, the inputs that it was made from, their inputs, and so on."""

from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import ArtifactError
from pipeline.artifacts.manifest import Parent
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.store import Artifact, ArtifactStore


@dataclass(frozen=True)
class Node:
    """One artifact in a lineage. `trouble` says why it is not the input that was read; empty if it is."""

    ref: ArtifactRef
    depth: int
    input_name: str
    artifact: Artifact | None
    trouble: str


def lineage(store: ArtifactStore, artifact: Artifact) -> Iterator[Node]:
    """Walk an artifact and its ancestors, depth first. An ancestor comes once below each artifact that used it."""

    def descend(current: Artifact, name: str, depth: int) -> Iterator[Node]:
        yield Node(current.ref, depth, name, current, "")
        for input_name, parent in sorted(current.manifest.parents.items()):
            try:
                found = store.get(parent.ref)
            except ArtifactError:
                yield Node(parent.ref, depth + 1, input_name, None, "has a damaged manifest")
                continue
            problem = parent_problem(parent, found)
            if found is None or problem:
                yield Node(parent.ref, depth + 1, input_name, found, problem)
            else:
                yield from descend(found, input_name, depth + 1)

    yield from descend(artifact, "", 0)


def parent_problem(pinned: Parent | None, found: Artifact | None) -> str:
    """The rule of staleness: '' if a parent has the content that its child read, else the reason why not.

    A parent that was made again with the same bytes has the same content.
    """
    if found is None:
        return "is gone"
    if pinned is None or found.manifest.content_sha256 != pinned.content_sha256:
        return "was replaced since it was read"
    return ""


def stale_reason(store: ArtifactStore, artifact: Artifact) -> str:
    """The reason why an artifact is stale: an ancestor is gone, damaged or changed since it was read. '' if none is."""
    for node in lineage(store, artifact):
        if node.trouble:
            return f"{node.ref} {node.trouble}"
    return ""
