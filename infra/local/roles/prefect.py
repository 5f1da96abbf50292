"""Prefect's server, with its database, its work pool and the pool's queues."""

import os
import sys

from infra.local.folders import Folders
from infra.local.processes import spawn
from infra.local.secret import make_secret, read_secret
from infra.local.stack_file import ANY_ADDRESS, LOOPBACK, ProcessRecord, StackError, StackState
from infra.local.web import Refused, Server, basic

POOL = "local"
QUEUES = {"masks-pretrain": 1, "masks-instruct": 1}
"""Name -> runs at once. The server counts the pending and running runs of a queue, so a crashed run holds no place. A
`concurrency_limit` of a deployment would do that with leases, and Prefect ends a living run whose lease ran out while
the server was away."""

DATABASE = "AGEVLM_PREFECT_DATABASE_URL"
"""Variable with the address of a PostgreSQL database, `postgresql+asyncpg://USER:PASSWORD@HOST/NAME`. "sqlite" goes
back to the file in the home folder. It is kept in the home folder for later starts, and only the server gets it."""


def prefect_api(folders: Folders, state: StackState) -> Server:
    """The REST API of the stack's Prefect server."""
    return Server(state.url("prefect") + "/api", basic(read_secret(folders)))


def start(folders: Folders, state: StackState) -> ProcessRecord:
    """Start the server on the stack's host. It asks for the secret."""
    make_secret(folders.secret)
    folders.prefect.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "prefect", "server", "start"]
    port = state.ports["prefect"]
    # By default any page in the user's browser may send requests to this server, for example to start a run.
    hosts = dict.fromkeys((LOOPBACK, "localhost", *([] if state.host == ANY_ADDRESS else [state.host])))
    origins = ",".join(f"http://{host}:{port}" for host in hosts)
    extra = {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_API_AUTH_STRING": read_secret(folders),
        # The page asks the server that it came from: also through a tunnel, and from another machine.
        "PREFECT_SERVER_UI_API_URL": "/api",
        **database(folders, os.environ.get(DATABASE, "")),
    }
    return spawn(folders, "prefect", [*command, "--host", state.host, "--port", str(port)], state, extra)


def database(folders: Folders, given: str) -> dict[str, str]:
    """The server's variable with its database; {} for SQLite. `given` replaces what an earlier start was given.

    Raises StackError if the address is not one of PostgreSQL; the message does not repeat it, for it has a password.
    """
    note = folders.home / "database"
    if given == "sqlite":
        note.unlink(missing_ok=True)
    elif given:
        if not given.startswith("postgresql+asyncpg://"):
            raise StackError(f"{DATABASE} must begin with 'postgresql+asyncpg://', or be 'sqlite'")
        note.unlink(missing_ok=True)
        with open(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(given)
    try:
        return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": note.read_text(encoding="utf-8")}
    except FileNotFoundError:
        return {}


def ready(folders: Folders, state: StackState) -> bool:
    """True if the server answers, and takes the secret."""
    return prefect_api(folders, state).answers("/admin/version", timeout=5) is not None


def make_pool(api: Server) -> None:
    """Create the work pool of type process and its queues, unless they exist. Raises StackError if Prefect refuses."""
    _make(api, "/work_pools/", {"name": POOL, "type": "process", "description": "flows of agevlm on this machine"})
    for name, limit in QUEUES.items():
        _make(api, f"/work_pools/{POOL}/queues", {"name": name, "concurrency_limit": limit})


def _make(api: Server, path: str, body: dict[str, object]) -> None:
    try:
        api.insist(path, body, timeout=30)
    except OSError as error:
        if not (isinstance(error, Refused) and error.status == 409):  # 409: it exists
            what = f"'{body['name']}'"
            raise StackError(
                f"Prefect did not create the work pool or queue {what}: {error}; see 'agevlm status'"
            ) from error
