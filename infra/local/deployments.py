"""Deploys `prefect.yaml` to the stack's Prefect server, once for each version of the code."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.local.automations import make_automations
from infra.local.environment import process_environment
from infra.local.folders import Folders
from infra.local.processes import log_tail
from infra.local.roles.prefect import prefect_api
from infra.local.stack_file import StackError, StackState
from infra.local.web import Server

DEPLOY_SECONDS = 300
SOURCES = ("flows", "pipeline", "model")
"""Folders of the project that a deployment's entry point and the schema of its parameters can depend on."""


def sources_digest(project: Path) -> str:
    """Checksum of `prefect.yaml` and of the sources that a deployment can depend on."""
    hasher = hashlib.sha256(str(project).encode())
    sources = [path for folder in SOURCES for path in sorted((project / folder).rglob("*.py"))]
    for path in [project / "prefect.yaml", *sources]:
        if path.is_file():
            hasher.update(f"{path.relative_to(project)}\n".encode() + path.read_bytes())
    return hasher.hexdigest()


def deployed(api: Server) -> list[str]:
    """Names of the server's deployments, as 'flow/deployment'. Raises StackError if it does not answer."""
    try:
        flows: Any = api.insist("/flows/filter", {"limit": 200}, timeout=30)
        found: Any = api.insist("/deployments/filter", {"limit": 200}, timeout=30)
    except OSError as error:
        raise StackError(f"Prefect does not list its deployments ({error}); see 'agevlm status'") from error
    names = {flow["id"]: flow["name"] for flow in flows}
    return sorted(f"{names.get(d['flow_id'], '?')}/{d['name']}" for d in found)


def deploy(folders: Folders, state: StackState) -> list[str]:
    """Deploy `prefect.yaml`, unless exactly these sources are deployed already, and make the automations.

    Returns the deployments' names. Raises StackError with Prefect's output if it refuses.
    """
    note, digest = folders.prefect / "deployed.json", sources_digest(folders.project)
    api = prefect_api(folders, state)
    make_automations(api, os.environ)
    present = deployed(api)
    try:
        last = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        last = {}
    if present and last == {"digest": digest, "deployments": present}:
        return present
    log = folders.logs / "deploy.log"
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    with open(log, "wb") as output:
        try:
            result = subprocess.run(
                command,
                cwd=folders.project,
                env=process_environment(folders, state, {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=DEPLOY_SECONDS,
                umask=folders.umask,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"'prefect deploy --all' took more than {DEPLOY_SECONDS} s; its log is {log}") from error
    if result.returncode != 0:
        raise StackError(f"'prefect deploy --all' failed ({log}):\n{log_tail(log)}")
    present = deployed(api)
    if not present:
        raise StackError(f"'prefect deploy --all' created no deployment ({log}):\n{log_tail(log)}")
    note.write_text(json.dumps({"digest": digest, "deployments": present}), encoding="utf-8")
    return present
