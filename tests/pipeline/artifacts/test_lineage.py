"""Lineage: every ancestor is reached; a missing, damaged or changed one is named."""

import shutil
from pathlib import Path

from pipeline.artifacts.lineage import lineage, stale_reason
from pipeline.artifacts.store import Artifact, ArtifactStore
from tests.pipeline.artifacts.conftest import Publish


def test_lineage_reaches_every_ancestor(store: ArtifactStore, publish: Publish) -> None:
    inventory = publish("inventory")
    subset = publish("subset", parents={"inventory": inventory})
    masks = publish("masks", parents={"subset": subset, "inventory": inventory})
    walked = [(node.depth, node.ref.kind) for node in lineage(store, masks)]
    assert walked == [(0, "masks"), (1, "inventory"), (1, "subset"), (2, "inventory")]
    assert stale_reason(store, masks) == ""


def test_a_missing_ancestor_makes_its_descendants_stale(store: ArtifactStore, publish: Publish) -> None:
    inventory = publish("inventory")
    subset = publish("subset", parents={"inventory": inventory})
    masks = publish("masks", parents={"subset": subset})
    shutil.rmtree(store.join(inventory.ref.path))
    assert "is gone" in stale_reason(store, masks)
    assert "is gone" in stale_reason(store, subset)


def remake(store: ArtifactStore, publish: Publish, artifact: Artifact, content: bytes) -> Artifact:
    """Delete an artifact and make it again under the same id, with this content."""
    shutil.rmtree(store.join(artifact.ref.path))
    again = publish("inventory", content, params=artifact.manifest.spec.params["content"])
    assert again.ref == artifact.ref
    assert again.manifest.data != artifact.manifest.data
    assert again.manifest.sha256 != artifact.manifest.sha256
    return again


def test_a_parent_that_was_made_again_with_the_same_bytes_is_not_stale(store: ArtifactStore, publish: Publish) -> None:
    inventory = publish("inventory", b"the same")
    subset = publish("subset", parents={"inventory": inventory})
    masks = publish("masks", parents={"subset": subset})
    again = remake(store, publish, inventory, b"the same")
    assert again.manifest.content_sha256 == inventory.manifest.content_sha256
    assert stale_reason(store, subset) == ""
    assert stale_reason(store, masks) == ""


def test_a_parent_that_was_made_again_with_other_bytes_makes_its_children_stale(
    store: ArtifactStore, publish: Publish
) -> None:
    inventory = publish("inventory", b"the same")
    subset = publish("subset", parents={"inventory": inventory})
    masks = publish("masks", parents={"subset": subset})
    remake(store, publish, inventory, b"not that")
    assert "was replaced" in stale_reason(store, subset)
    assert "was replaced" in stale_reason(store, masks)


def test_an_ancestor_with_an_edited_manifest_makes_its_descendants_stale(
    store: ArtifactStore, publish: Publish
) -> None:
    inventory = publish("inventory")
    subset = publish("subset", parents={"inventory": inventory})
    path = Path(store.manifest_path(inventory.ref))
    path.write_text(path.read_text().replace('"rows_in":1,"rows_out":1', '"rows_in":2,"rows_out":2'))
    assert "has a damaged manifest" in stale_reason(store, subset)
