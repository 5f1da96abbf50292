"""Starts a flow run on the stack, reads its state, cancels it. Uses Prefect's REST API: importing Prefect is slow."""

import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from infra.local.deployments import deployed
from infra.local.stack_file import StackError
from infra.local.web import Refused, Server
from model.errors import ConfigError

PATIENCE = 90.0
"""Seconds for which a request to a busy server is repeated."""
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})


@dataclass(frozen=True)
class FlowState:
    """The state of a flow run in Prefect."""

    type: str
    name: str
    message: str = ""

    @property
    def final(self) -> bool:
        """True if the run is over."""
        return self.type in FINAL


@dataclass(frozen=True)
class FlowRun:
    """A flow run that was started."""

    id: str
    name: str
    deployment: str


def start(api: Server, deployment: str, parameters: dict[str, Any]) -> FlowRun:
    """Start a run of a deployment ('agevlm/full-recipe').

    Raises ConfigError if the deployment or a parameter is wrong, StackError if Prefect does not answer.
    """
    try:
        flow, _, name = deployment.partition("/")
        path = f"{quote(flow, safe='')}/{quote(name, safe='')}"
        found = api.insist(f"/deployments/name/{path}", patience=PATIENCE) if flow and name else None
    except Refused as error:
        if error.status != 404:
            raise StackError(f"Prefect did not look up '{deployment}': {error.detail}; see 'agevlm status'") from error
        found = None
    except OSError as error:
        raise StackError(f"Prefect does not answer at {api.url} ({error}); see 'agevlm status'") from error
    if found is None:
        raise ConfigError(f"there is no deployment '{deployment}'; there are: {', '.join(deployed(api)) or 'none'}")
    _check_names(deployment, parameters, found.get("parameter_openapi_schema") or {})
    try:
        # If the first answer is lost and the request is repeated, the key makes Prefect start only one run.
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": uuid.uuid4().hex}
        run = api.insist(f"/deployments/{found['id']}/create_flow_run", body, timeout=60, patience=PATIENCE)
    except OSError as error:
        if isinstance(error, Refused) and error.status < 500:
            raise ConfigError(f"{deployment} refuses these parameters: {error.detail}") from error
        raise StackError(f"Prefect did not start {deployment}: {error}; see 'agevlm status'") from error
    return FlowRun(run["id"], run["name"], deployment)


def _check_names(deployment: str, parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    known = schema.get("properties") or {}
    for name in parameters:
        if known and name not in known:
            raise ConfigError(f"{deployment} has no parameter '{name}'; it has: {', '.join(known)}")


def flow_state(api: Server, run_id: str) -> FlowState:
    """The current state of a run. Raises OSError if the server does not answer."""
    run = api.call(f"/flow_runs/{run_id}")
    value = run.get("state") or {}
    return FlowState(value.get("type", "PENDING"), value.get("name", "Pending"), value.get("message") or "")


def cancel(api: Server, run_id: str) -> None:
    """Ask Prefect to cancel a run; its flow then stops its jobs. Raises OSError if the server does not answer."""
    wanted = {"type": "CANCELLING", "name": "Cancelling", "message": "cancelled from the terminal"}
    api.insist(f"/flow_runs/{run_id}/set_state", {"state": wanted}, patience=PATIENCE)


def page(api: Server, run_id: str) -> str:
    """The run's page in Prefect's user interface."""
    return f"{api.url.removesuffix('/api')}/v2/runs/flow-run/{run_id}"
