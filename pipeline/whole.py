"""Files that are there whole or not at all, whatever is killed and whoever else writes the same name."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream for a local file's bytes; the file gets its name when the block ends without an error.

    Its bytes are on the disk before it has its name, so that no power loss leaves an empty file under it, and each
    writer has a partial file of its own. The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(partial, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
