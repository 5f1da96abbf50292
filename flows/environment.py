"""The environment of every process of the stack, of flows, and of a shell that wants to talk to them."""

import os
import shlex
from collections.abc import Mapping

from flows.home import ROOT, home, prefect_home, ray_token_file, store_root
from flows.state import StackState, load

FOREIGN = (
    # Variables that would send our processes to somebody else's server, database or cluster.
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_PROFILE",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_API_AUTH_STRING",
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_JOB_HEADERS",
    "RAY_NAMESPACE",
    "VIRTUAL_ENV",
)


def environment(state: StackState | None = None) -> dict[str, str]:
    """Variables with which any process talks to the stack; without a stack, only those that need no port.

    Args:
        state: the stack; the recorded one if not given.
    """
    state = state or load()
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    programs = str(ROOT / ".venv" / "bin")
    variables = {
        "AGEVLM_HOME": str(home()),
        "AGEVLM_STORE": (state.store if state is not None else "") or store_root(),
        "PREFECT_HOME": str(prefect_home()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # a lost address is an error, not a second server
        "PREFECT_CLIENT_MAX_RETRIES": "12",  # the default of 5 does not outlive a server's restart
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # a run starts within seconds
        "DO_NOT_TRACK": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(ray_token_file()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # never let Ray run uv, which would want the network
        "PATH": os.pathsep.join([programs, *(p for p in path if p != programs)]),
        "PYTHONPATH": str(ROOT),
    }
    if state is not None and "prefect" in state.ports:
        variables["PREFECT_API_URL"] = state.url("prefect") + "/api"
    if state is not None and "ray_dashboard" in state.ports:
        variables["AGEVLM_RAY_JOBS_URL"] = state.url("ray_dashboard")
        variables["RAY_API_SERVER_ADDRESS"] = state.url("ray_dashboard")  # for 'ray job list' and its like
    return variables


def process_environment(extra: Mapping[str, str], state: StackState | None = None) -> dict[str, str]:
    """The whole environment for a new process: this one's, without what leads elsewhere, plus ours."""
    own = {k: v for k, v in os.environ.items() if k not in FOREIGN and not k.startswith(("PREFECT__", "RAY_JOB_"))}
    return {**own, **environment(state), **extra}


def shell_lines() -> str:
    """Lines for a shell: `eval "$(agevlm env)"`."""
    variables = environment()
    unset = "unset " + " ".join(name for name in FOREIGN if name not in variables and name != "VIRTUAL_ENV")
    return "\n".join([unset, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())])
