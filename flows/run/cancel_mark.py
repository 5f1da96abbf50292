"""The mark of a cancelled flow run: the object `runs/<flow run id>.cancel`, created once and never rewritten.

A flow process rewrites its whole run file at each change. So a cancel that another process entered there would be lost
at the flow's next change; the mark is not.
"""

import json
from datetime import UTC, datetime

from pipeline.artifacts import filesystem
from pipeline.artifacts.store import ArtifactStore

SUFFIX = ".cancel"


def mark_path(flow_run_id: str) -> str:
    """The path of a flow run's mark, relative to the store's root."""
    return f"runs/{flow_run_id}{SUFFIX}"


def mark_cancel(store: ArtifactStore, flow_run_id: str) -> bool:
    """Mark a flow run as being cancelled. Returns True if it was not marked before."""
    content = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds")}).encode()
    return filesystem.create_bytes(store.fs, store.join(mark_path(flow_run_id)), content)


def is_marked(store: ArtifactStore, flow_run_id: str) -> bool:
    """True if a flow run is being cancelled, or was."""
    try:
        store.fs.cat_file(store.join(mark_path(flow_run_id)))
    except FileNotFoundError:
        return False
    return True


def unmark(store: ArtifactStore, flow_run_id: str) -> None:
    """Remove the mark: the same flow run begins once more."""
    filesystem.remove(store.fs, store.join(mark_path(flow_run_id)))
