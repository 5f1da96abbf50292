"""Lineage: from any artifact back to everything that it was made from."""

from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import ArtifactError
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.store import Artifact, ArtifactStore


@dataclass(frozen=True)
class Node:
    """One artifact in a lineage, with the trouble that was found on the way to it (empty if none)."""

    ref: ArtifactRef
    depth: int
    input_name: str
    artifact: Artifact | None
    trouble: str


def lineage(store: ArtifactStore, artifact: Artifact) -> Iterator[Node]:
    """Walk an artifact and its ancestors, depth first, each shown below every child that used it."""

    def walk(current: Artifact, name: str, depth: int) -> Iterator[Node]:
        yield Node(current.ref, depth, name, current, "")
        for input_name, parent in sorted(current.manifest.parents.items()):
            try:
                found = store.get(parent.ref)
            except ArtifactError:
                yield Node(parent.ref, depth + 1, input_name, None, "has a damaged manifest")
                continue
            if found is None:
                yield Node(parent.ref, depth + 1, input_name, None, "is gone")
            elif found.manifest.content_sha256 != parent.content_sha256:
                yield Node(parent.ref, depth + 1, input_name, found, "was replaced since it was read")
            else:
                yield from walk(found, input_name, depth + 1)

    yield from walk(artifact, "", 0)


def stale_reason(store: ArtifactStore, artifact: Artifact) -> str:
    """Why an artifact is stale: an ancestor is gone, damaged, or has other content than what was read. '' if it is not.

    An ancestor that was made again bit by bit has the same content.
    """
    for node in lineage(store, artifact):
        if node.trouble:
            return f"{node.ref} {node.trouble}"
    return ""
