"""Makes the automations of `infra/prefect/automations.yaml` at the stack's Prefect server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.local.stack_file import StackError
from infra.local.web import Refused, Server

WEBHOOK = "AGEVLM_WEBHOOK_URL"
"""Variable with an address that is called with a JSON message when a run fails; read at `up`, given to Prefect's server
only. It may contain a password, so it is never printed."""
FILE = Path(__file__).parents[1] / "prefect" / "automations.yaml"
BLOCK = "agevlm"
MESSAGE = {
    "text": "agevlm: {{ automation.name }}: {{ event.event }} of {{ event.resource.name }} ({{ event.resource.id }})"
}


def read_automations(text: str, webhook: str | None) -> list[dict[str, Any]]:
    """The automations of a YAML file, as Prefect's API takes them.

    Args:
        text: the file.
        webhook: id of the block that `notify` calls; None: it does nothing but show up in the event feed.
    """
    notify: dict[str, Any] = {"type": "do-nothing"}
    if webhook is not None:
        notify = {"type": "call-webhook", "block_document_id": webhook, "payload": MESSAGE}
    found = yaml.safe_load(text)["automations"]
    return [{**a, "actions": [notify if x["type"] == "notify" else x for x in a["actions"]]} for a in found]


def make_automations(api: Server, environment: Mapping[str, str]) -> list[str]:
    """Make the automations whose names are missing. Returns the names of those that were made.

    If AGEVLM_WEBHOOK_URL is set, its block is made or changed, and automations that do nothing yet call it from now on.
    Raises StackError if Prefect refuses.
    """
    try:
        url = environment.get(WEBHOOK, "")
        webhook = make_webhook(api, url) if url else None
        known: Any = api.insist("/automations/filter", {"limit": 200}, timeout=30)
        present = {automation["name"]: automation for automation in known}
        made = []
        for automation in read_automations(FILE.read_text(encoding="utf-8"), webhook):
            before = present.get(automation["name"])
            if before is None:
                api.insist("/automations/", automation, timeout=30)
                made.append(automation["name"])
            elif webhook is not None and any(action["type"] == "do-nothing" for action in before["actions"]):
                api.insist(f"/automations/{before['id']}", automation, method="PUT", timeout=30)
                made.append(automation["name"])
        return made
    except OSError as error:
        raise StackError(f"Prefect did not make the automations of {FILE}: {error}; see 'agevlm status'") from error


def make_webhook(api: Server, url: str) -> str:
    """Make or change the Webhook block with this address. Returns the block's id."""
    kind: Any = api.insist("/block_types/slug/webhook", timeout=30)
    body = {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}}
    schemas: Any = api.insist("/block_schemas/filter", body, timeout=30)
    data = {"method": "POST", "url": url, "headers": {}, "allow_private_urls": True, "verify": True}
    document = {
        "name": BLOCK,
        "block_type_id": kind["id"],
        "block_schema_id": schemas[0]["id"],
        "data": data,
    }
    try:
        made: Any = api.insist("/block_documents/", document, timeout=30)
        return str(made["id"])
    except Refused as error:
        if error.status != 409:  # 409: it exists
            raise
    found: Any = api.insist(f"/block_types/slug/webhook/block_documents/name/{BLOCK}", timeout=30)
    api.insist(f"/block_documents/{found['id']}", {"data": data}, method="PATCH", timeout=30)
    return str(found["id"])
