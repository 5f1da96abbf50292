"""The environment of every process of the stack, of flows, and of a shell that wants to talk to them."""

import os
import re
import shlex
from collections.abc import Mapping

from flows.home import ROOT, home, prefect_home, ray_token_file, store_root
from flows.state import StackState, load

PREFIXES = ("PREFECT_", "RAY_", "AGEVLM_")
"""What begins so may lead to somebody else's server, database or cluster, or change how they work: only ours counts."""

KEPT = frozenset(
    {
        "PREFECT_LOGGING_LEVEL",  # how much flows and servers say: a matter of who looks
        "RAY_BACKEND_LOG_LEVEL",
        "RAY_memory_monitor_refresh_ms",  # when Ray ends workers for want of memory: a matter of this machine
        "RAY_memory_usage_threshold",
    }
)
"""Variables with these beginnings that the user may set."""


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


def foreign() -> list[str]:
    """Names in this process's environment that could lead a process of ours elsewhere, sorted."""
    return sorted(name for name in os.environ if name.startswith(PREFIXES) and name not in KEPT)


def process_environment(extra: Mapping[str, str], state: StackState | None = None) -> dict[str, str]:
    """The whole environment for a new process: this one's, without what leads elsewhere, plus ours."""
    dropped = {*foreign(), "VIRTUAL_ENV"}
    own = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**own, **environment(state), **extra}


def shell_lines() -> str:
    """Lines for a shell: `eval "$(agevlm env)"`. They take back what that shell has set and what leads elsewhere."""
    variables = environment()
    # A name that is none to a shell could not be taken back, and must not be evaluated.
    unset = [f"unset {name}" for name in foreign() if name not in variables and re.fullmatch(r"\w+", name, re.ASCII)]
    return "\n".join([*unset, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())])
