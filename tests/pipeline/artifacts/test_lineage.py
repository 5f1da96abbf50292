"""Lineage: every ancestor is reached; a replaced or missing one is named."""

import shutil
from pathlib import Path

from pipeline.artifacts.lineage import lineage, stale_reason
from pipeline.artifacts.store import ArtifactStore
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


def test_a_replaced_parent_makes_its_child_stale(store: ArtifactStore, publish: Publish) -> None:
    inventory = publish("inventory")
    subset = publish("subset", parents={"inventory": inventory})
    path = Path(store.manifest_path(inventory.ref))
    path.write_text(path.read_text().replace('"rows_in":1,"rows_out":1', '"rows_in":2,"rows_out":2'))
    assert "was replaced" in stale_reason(store, subset)
