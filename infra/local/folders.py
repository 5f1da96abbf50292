"""The folders and files of the local stack. The command line reads the environment and hands them in."""

import hashlib
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOCKET_FOLDER_LENGTH = 40
"""Longest temporary folder for Ray, in bytes: Ray creates unix sockets there, and the path of a socket is limited to
107 bytes, of which '/session_<date>_<time>_<pid>/sockets/plasma_store' takes the rest."""

PLAIN = re.compile(r"[A-Za-z0-9_./@+,=-]+")
"""Paths that a shell takes as they are: Ray starts its workers by a shell command in which they are not quoted."""


@dataclass(frozen=True)
class Folders:
    """Paths that the stack works with. All of them are absolute."""

    project: Path
    """The project's own folder: `prefect.yaml`, `.venv` and the sources."""
    home: Path
    """State, logs and databases of the stack. There is one stack per home."""
    store: str
    """Root of the artifact store, a path or an fsspec URL: the flows of the stack work on it."""
    umask: int = 0o077
    """Permissions that new files of the stack's processes do not get."""

    @property
    def state_file(self) -> Path:
        """`stack.json`: the processes and ports of the running stack."""
        return self.home / "stack.json"

    @property
    def logs(self) -> Path:
        """Log files, one per process."""
        return self.home / "logs"

    @property
    def prefect(self) -> Path:
        """Prefect's folder: its SQLite database and profiles."""
        return self.home / "prefect"

    @property
    def secret(self) -> Path:
        """File with the secret that all servers of the stack ask for. Only its owner can read it."""
        return self.home / "secret"

    @property
    def ray(self) -> Path:
        """Ray's temporary folder: in the home folder, in `$TMPDIR` or in /tmp, the first that is short and plain.

        Ray opens this folder to all users, so the folder that it lies in is for its owner only.
        """
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:8]  # two homes never share Ray's folder
        name = f"agevlm-ray-{os.getuid()}-{digest}"
        last = Path("/tmp") / name / "ray"
        choices = (self.home / "ray", Path(tempfile.gettempdir()) / name / "ray", last)
        fits = (f for f in choices if len(os.fsencode(f)) <= SOCKET_FOLDER_LENGTH and PLAIN.fullmatch(str(f)))
        return next(fits, last)

    @property
    def temporary_link(self) -> Path:
        """A short link to the user's temporary folder, where its path is long."""
        return self.ray / "tmp"

    @property
    def worker_temporary(self) -> Path:
        """The temporary folder of the worker and its flows: Prefect makes `runner_storage` there, under a fixed name,
        so in a folder that two users share the second one could not start a worker."""
        return self.ray / "worker"

    @property
    def compiled(self) -> Path:
        """The folder that torch.compile loads its own code from. By default that is a folder in the temporary folder
        with the user's name, which another user could make first, with code of his own."""
        return self.ray / "torchinductor"

    @property
    def python_link(self) -> Path:
        """A link to the virtual environment, where its path is not plain."""
        return self.ray / "venv"

    @property
    def python(self) -> str:
        """The interpreter for Ray's processes; by way of a link where a shell would not take its path as it is."""
        if PLAIN.fullmatch(sys.executable):
            return sys.executable
        return str(self.python_link / Path(sys.executable).relative_to(sys.prefix))
