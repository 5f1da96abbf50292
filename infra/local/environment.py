"""The environment of every process of the stack, of flows, and of a shell that talks to them."""

import os
import re
import shlex
from collections.abc import Mapping

from infra.local.certificates import VARIABLE, unusable_certificates
from infra.local.folders import Folders
from infra.local.machine import CPUS, usable_cpus
from infra.local.proxies import proxy_variables
from infra.local.secret import read_secret
from infra.local.stack_file import StackState
from infra.local.temporary import temporary_variables

HOME, STORE = "AGEVLM_HOME", "AGEVLM_STORE"
"""Variables that tell a process of the stack its home folder and its artifact store."""

PREFIXES = ("PREFECT_", "RAY_", "AGEVLM_")
"""Variables with these prefixes can lead a process to another server, database or cluster, or change how it works. So
those that the user has set are not handed on, except for KEPT."""

KEPT = frozenset(
    {
        "PREFECT_LOGGING_LEVEL",  # the amount of log output
        "RAY_BACKEND_LOG_LEVEL",
        "RAY_memory_monitor_refresh_ms",  # when Ray kills workers because memory is short: depends on the machine
        "RAY_memory_usage_threshold",
    }
)
"""Variables with these prefixes that the user may set."""

OWN = frozenset(
    {
        "OTEL_SDK_DISABLED",  # Ray's processes hand their metrics on by OpenTelemetry, to this machine only
        "TMPDIR",  # temporary.py has the stack's
        "VIRTUAL_ENV",  # another environment's, maybe
        "WEB_CONCURRENCY",  # uvicorn would start Prefect's server several times, which it refuses
    }
)
"""Variables that a shell keeps, but that no process of the stack gets as they are."""

INTERPRETER = frozenset(
    {
        "PYTHONHOME",  # another Python's library
        "PYTHONEXECUTABLE",
        "PYTHONPLATLIBDIR",
        "PYTHONUSERBASE",
        "PYTHONWARNINGS",  # 'error' ends Ray and Prefect at their first warning
        "PYTHONDEVMODE",
        "PYTHONOPTIMIZE",  # 2 removes the docstrings that Prefect reads
        "PYTHONSAFEPATH",  # Ray's workers find modules in their working folder
        "PYTHONINSPECT",  # a process would wait for input at its end
        "PYTHONVERBOSE",
        "PYTHONDEBUG",
        "PYTHONIOENCODING",
    }
)
"""Variables that make Python itself work in another way: Ray and Prefect fail with some of them."""


def environment(folders: Folders, state: StackState | None) -> dict[str, str]:
    """Variables with which a process talks to the stack; without a stack, those that need a port are left out."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    programs = str(folders.project / ".venv" / "bin")
    variables = {
        HOME: str(folders.home),
        STORE: (state.store if state is not None else "") or folders.store,
        CPUS: str(usable_cpus()),  # within the limits of a container, which the system's own number leaves out
        "PREFECT_HOME": str(folders.prefect),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # without an address: an error, not a second server
        "PREFECT_CLIENT_MAX_RETRIES": "8",  # the default of 5 ends after a minute, 8 after nine: each pause doubles
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; see infra/prefect/automations.yaml
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # a run starts within seconds
        "DO_NOT_TRACK": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folders.secret),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # never let Ray run uv, which needs the network
        "PATH": os.pathsep.join([programs, *(p for p in path if p != programs)]),
        "PYTHONPATH": str(folders.project),
    }
    if state is not None and "prefect" in state.ports:
        variables["PREFECT_API_URL"] = state.url("prefect") + "/api"
        variables["PREFECT_UI_URL"] = state.url("prefect") + "/v2"  # its older page does not ask for the secret first
        variables["PREFECT_API_AUTH_STRING"] = read_secret(folders)
    if state is not None and "ray_dashboard" in state.ports:
        variables["AGEVLM_RAY_JOBS_URL"] = state.url("ray_dashboard")
        variables["RAY_API_SERVER_ADDRESS"] = state.url("ray_dashboard")  # for 'ray job list' and similar commands
    if state is not None and "prometheus" in state.ports:
        variables["AGEVLM_PROMETHEUS_URL"] = state.url("prometheus")  # flows link to its charts
    return variables | {name: value for name, value in proxy_variables(os.environ).items() if value is not None}


def not_handed_on() -> list[str]:
    """Names of this process's variables that no process of the stack and no shell gets, sorted."""
    other = {name for name in os.environ if name in INTERPRETER or (name.startswith(PREFIXES) and name not in KEPT)}
    other |= {name for name, value in proxy_variables(os.environ).items() if value is None}
    return sorted(other | ({VARIABLE} if unusable_certificates(os.environ) else set()))


def process_environment(folders: Folders, state: StackState | None, extra: Mapping[str, str]) -> dict[str, str]:
    """The whole environment for a new process: this process's without `not_handed_on`, the stack's, and `extra`."""
    dropped = {*not_handed_on(), *OWN}
    handed_on = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**handed_on, **temporary_variables(folders), **environment(folders, state), **extra}


def shell_lines(folders: Folders, state: StackState) -> str:
    """Lines for `eval "$(agevlm env)"`: they set the stack's variables and unset those that lead elsewhere."""
    variables = environment(folders, state)
    # A name that a shell does not accept cannot be unset there, and must not be evaluated.
    names = [name for name in not_handed_on() if re.fullmatch(r"\w+", name, re.ASCII)]
    unset = [f"unset {name}" for name in names if name not in variables]
    return "\n".join([*unset, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())])
