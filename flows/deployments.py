"""Putting `prefect.yaml` on the stack's Prefect server, once for each version of the code."""

import hashlib
import json
import subprocess
import sys
from typing import Any

from flows.environment import process_environment
from flows.home import ROOT, logs, prefect_home
from flows.processes import log_tail
from flows.state import StackError, StackState
from flows.web import insist

DEPLOY_SECONDS = 300


def sources_digest() -> str:
    """Checksum of everything that a deployment's parameters and entry point can depend on."""
    hasher = hashlib.sha256(str(ROOT).encode())
    files = [ROOT / "prefect.yaml", *sorted((ROOT / "flows").rglob("*.py")), *sorted((ROOT / "pipeline").rglob("*.py"))]
    for path in files:
        if path.is_file():
            hasher.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return hasher.hexdigest()


def deployed(state: StackState) -> list[str]:
    """Names of the server's deployments, as 'flow/deployment'. Raises StackError if it does not list them."""
    api = state.url("prefect") + "/api"
    try:
        flows: Any = insist(f"{api}/flows/filter", {"limit": 200}, timeout=30)
        found: Any = insist(f"{api}/deployments/filter", {"limit": 200}, timeout=30)
    except OSError as error:
        raise StackError(f"Prefect does not list its deployments ({error}); see 'agevlm status'") from error
    names = {flow["id"]: flow["name"] for flow in flows}
    return sorted(f"{names.get(d['flow_id'], '?')}/{d['name']}" for d in found)


def deploy(state: StackState) -> list[str]:
    """Deploy `prefect.yaml`; nothing is done if these very sources are deployed already.

    Returns the deployments' names. Raises StackError with Prefect's own words if it refuses.
    """
    note, digest = prefect_home() / "deployed.json", sources_digest()
    present = deployed(state)
    try:
        last = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        last = {}
    if present and last == {"digest": digest, "deployments": present}:
        return present
    log = logs() / "deploy.log"
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    with open(log, "wb") as output:
        try:
            result = subprocess.run(
                command,
                cwd=ROOT,
                env=process_environment({}, state),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=DEPLOY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"'prefect deploy --all' took more than {DEPLOY_SECONDS} s; its log is {log}") from error
    if result.returncode != 0:
        raise StackError(f"'prefect deploy --all' failed ({log}):\n{log_tail(log)}")
    present = deployed(state)
    if not present:
        raise StackError(f"'prefect deploy --all' made no deployment ({log}):\n{log_tail(log)}")
    note.write_text(json.dumps({"digest": digest, "deployments": present}), encoding="utf-8")
    return present
