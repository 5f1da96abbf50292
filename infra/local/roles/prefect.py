"""Prefect's server, with its work pool."""

import sys

from infra.local.folders import Folders
from infra.local.processes import spawn
from infra.local.secret import make_secret, read_secret
from infra.local.stack_file import ANY_ADDRESS, LOOPBACK, ProcessRecord, StackError, StackState
from infra.local.web import Refused, Server, basic

POOL = "local"


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
    }
    return spawn(folders, "prefect", [*command, "--host", state.host, "--port", str(port)], state, extra)


def ready(folders: Folders, state: StackState) -> bool:
    """True if the server answers, and takes the secret."""
    return prefect_api(folders, state).answers("/admin/version", timeout=5) is not None


def make_pool(api: Server) -> None:
    """Create the work pool of type process, unless it exists. Raises StackError if Prefect refuses."""
    pool = {"name": POOL, "type": "process", "description": "flows of agevlm on this machine"}
    try:
        api.insist("/work_pools/", pool, timeout=30)
    except OSError as error:
        if not (isinstance(error, Refused) and error.status == 409):  # 409: it exists
            raise StackError(f"Prefect did not create the work pool '{POOL}': {error}; see 'agevlm status'") from error
