"""The automations and pools that infra describes, and what `up` makes of them."""

import json
from typing import Any

import pytest
import yaml
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore

from infra.local import web
from infra.local.automations import FILE, make_automations, read_automations
from infra.local.stack_file import StackError
from infra.local.web import Server
from pipeline.artifacts.paths import PROJECT
from tests.infra.local.fixtures_http_server import serving

WEBHOOK = "https://user:password@example.test/hook"


class Prefect:
    """A server that keeps automations and one block."""

    def __init__(self) -> None:
        self.automations: dict[str, dict[str, Any]] = {}
        self.block: dict[str, Any] | None = None

    def __call__(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, object]:
        path = path.removeprefix("/api")
        if path == "/automations/filter":
            return 200, list(self.automations.values())
        if path == "/automations/" and method == "POST":
            self.automations[body["name"]] = {**body, "id": body["name"].replace(" ", "-")}
            return 201, self.automations[body["name"]]
        if path.startswith("/automations/") and method == "PUT":
            self.automations[body["name"]] = {**body, "id": path.split("/")[2]}
            return 204, None
        if path == "/block_types/slug/webhook":
            return 200, {"id": "type"}
        if path == "/block_schemas/filter":
            return 200, [{"id": "schema"}]
        if path == "/block_documents/":
            if self.block is not None:
                return 409, {"detail": "exists"}
            self.block = body
            return 201, {"id": "hook"}
        if path.endswith("/block_documents/name/agevlm"):
            return 200, {"id": "hook"}
        if path == "/block_documents/hook":
            assert self.block is not None
            self.block = {**self.block, **body}
            return 204, None
        return 404, {"detail": path}


def test_automations_are_valid_and_made_once() -> None:
    prefect = Prefect()
    with serving(prefect) as port:
        api = Server(f"http://127.0.0.1:{port}/api")
        made = make_automations(api, {})
        assert made == ["agevlm heartbeats lost", "agevlm run failed", "agevlm too many rejects"]
        prefect.automations["agevlm run failed"]["enabled"] = False  # as a user may change it
        assert make_automations(api, {}) == []
        assert prefect.automations["agevlm run failed"]["enabled"] is False
        assert prefect.block is None
    for automation in prefect.automations.values():
        checked = AutomationCore.model_validate({k: v for k, v in automation.items() if k != "id"})
        assert "notify" not in [action.type for action in checked.actions]


def test_with_a_webhook_they_call_it_also_if_they_were_made_without() -> None:
    prefect = Prefect()
    with serving(prefect) as port:
        api = Server(f"http://127.0.0.1:{port}/api")
        make_automations(api, {})
        assert len(make_automations(api, {"AGEVLM_WEBHOOK_URL": WEBHOOK})) == 3
        assert make_automations(api, {"AGEVLM_WEBHOOK_URL": "https://other.test"}) == []
    assert prefect.block is not None
    assert prefect.block["data"]["url"] == "https://other.test"
    for automation in prefect.automations.values():
        AutomationCore.model_validate({**automation, "actions": automation["actions"][:-1]})
        assert automation["actions"][-1]["block_document_id"] == "hook"
        assert "password" not in json.dumps(automation)


def test_a_living_run_has_ten_minutes_to_send_a_heartbeat() -> None:
    lost = read_automations(FILE.read_text(), None)[0]
    trigger = lost["trigger"]
    assert trigger["within"] >= 20 * 30, "twenty heartbeats, an outage of the server and its start among them"
    assert set(trigger["after"]) < set(trigger["expect"])
    for state in ("Completed", "Failed", "Crashed", "Cancelled"):
        assert f"prefect.flow-run.{state}" in trigger["expect"], "a run that ended sends no more"


def test_what_prefect_refuses_is_an_error_without_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 0.05)
    with serving(lambda *_: (422, {"detail": "no"})) as port:
        with pytest.raises(StackError, match=r"automations\.yaml") as caught:
            make_automations(Server(f"http://127.0.0.1:{port}/api"), {"AGEVLM_WEBHOOK_URL": WEBHOOK})
        assert "password" not in str(caught.value)


@pytest.mark.parametrize(("folder", "kind"), [("docker", "docker"), ("kuberay", "kubernetes")])
def test_pools_take_the_variables_that_the_deployments_give(folder: str, kind: str) -> None:
    template = json.loads((PROJECT / "infra" / folder / "work-pool.json").read_text())
    WorkPoolCreate(name=kind, type=kind, base_job_template=template)
    definitions = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["definitions"]
    given = definitions[kind]["job_variables"]
    assert given.keys() <= template["variables"]["properties"].keys(), "a variable that the pool ignores"
    words = json.dumps(template["job_configuration"])
    for name in template["variables"]["properties"]:
        assert f"{{{{ {name} }}}}" in words, f"{name} is used nowhere"
    assert definitions[kind]["name"] == kind


def test_schedules_are_off() -> None:
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    schedules = [schedule for deployment in deployments for schedule in deployment.get("schedules", [])]
    assert schedules
    assert not any(schedule["active"] for schedule in schedules)
