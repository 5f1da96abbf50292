"""`agevlm up` on a living stack: it repairs what is dead or broken, and leaves the rest alone."""

import socket
from dataclasses import replace

import pytest

from infra.local import starting
from infra.local.processes import family, process_of
from infra.local.roles.table import ROLES
from infra.local.stack import LocalStack
from infra.local.stack_file import StackError, StackState
from tests.infra.local.fixtures_fake_stack import FakeServices, killed, pids, process_of_role, silent
from tests.infra.local.fixtures_home import wait_for


@pytest.mark.parametrize("role", ROLES)
def test_only_what_died_is_started_again(local: LocalStack, fake: FakeServices, role: str) -> None:
    first = local.up(silent)
    killed(first, role)
    assert {row.role: row.state for row in local.status()}[role] == "dead"
    if ROLES[role].needed:
        with pytest.raises(StackError, match="lacks its"):
            local.require()
    else:
        local.require()
    second = local.up(silent)
    assert second.id == first.id
    assert second.ports == first.ports  # the addresses in a shell stay right
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {role}
    # Only without a worker: otherwise it may just be starting the process of a run.
    assert fake.searched == 1 + (role == "worker")
    local.require()


def test_a_part_that_lives_but_cannot_work_again_is_replaced(local: LocalStack, fake: FakeServices) -> None:
    first = local.up(silent)
    fake.broken = {"ray"}
    assert {row.role: row.state for row in local.status()}["ray"] == "broken", "also while it still answers"
    second = local.up(silent)
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {"ray"}
    assert process_of(first.processes["ray"], first.id) is None
    assert second.ports == first.ports


def test_up_says_ready_only_for_what_still_answers(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray was ready, and ends while the worker starts."""
    monkeypatch.setattr(starting, "CONFIRM_SECONDS", 0.5)

    def ready(role: str, state: StackState) -> bool:
        if role == "worker" and process_of_role(state, "ray") is not None:
            killed(state, "ray")
        return role != "ray" or process_of_role(state, "ray") is not None

    fake.ready = ready
    with pytest.raises(StackError, match="Ray head was ready, but has ended"):
        local.up(silent)
    assert local.file.load() is None


def test_a_part_that_answers_again_within_seconds_is_ready(local: LocalStack, fake: FakeServices) -> None:
    asked: list[str] = []
    fake.ready = lambda role, state: asked.append(role) is None and (role != "prefect" or asked.count(role) != 2)
    local.up(silent)
    assert asked.count("prefect") == 3


def test_an_orphan_is_ended_before_its_parent_is_replaced(local: LocalStack) -> None:
    first = local.up(silent)
    wait_for(lambda: len(family(first)) == 2 * len(ROLES))
    killed(first, "ray")
    second = local.up(silent)
    wait_for(lambda: len(family(second)) == 2 * len(ROLES))  # not one more: the old child was ended


def test_the_worker_is_started_anew_when_an_address_changes(local: LocalStack) -> None:
    first = local.up(silent)
    killed(first, "ray")
    with socket.create_server(("127.0.0.1", first.ports["ray_dashboard"])):
        second = local.up(silent)
    assert second.ports["ray_dashboard"] != first.ports["ray_dashboard"]
    assert pids(second)["worker"] != pids(first)["worker"]
    assert pids(second)["prefect"] == pids(first)["prefect"]


def test_flows_go_on_when_the_address_of_a_part_that_they_do_not_need_changes(local: LocalStack) -> None:
    first = local.up(silent)
    wait_for(lambda: len(family(first, ["worker"])) == 2)  # with its flow
    flow = next(p for p in family(first, ["worker"]) if p.pid != first.processes["worker"].pid)
    killed(first, "prometheus")
    with socket.create_server(("127.0.0.1", first.ports["prometheus"])):
        second = local.up(silent)
    assert second.ports["prometheus"] != first.ports["prometheus"]
    assert pids(second)["worker"] != pids(first)["worker"], "its next flows link to the new address"
    assert flow.is_running()


def test_a_living_prefect_that_does_not_answer_is_an_error_with_the_remedy(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.up(silent)
    monkeypatch.setattr(starting, "ANSWER_SECONDS", 0.3)
    fake.ready = lambda role, state: role != "prefect"
    with pytest.raises(StackError, match=f"does not answer; .*kill -9 {first.processes['prefect'].pid}'"):
        local.up(silent)
    assert local.file.load() == first
    assert process_of_role(first, "prefect") is not None


def test_a_living_part_that_no_flow_needs_is_replaced_when_it_does_not_answer(
    local: LocalStack, fake: FakeServices
) -> None:
    first = local.up(silent)
    fake.ready = lambda role, state: role != "prometheus" or fake.started.count(role) == 2
    second = local.up(silent)
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {"prometheus"}
    assert second.ports == first.ports


def test_a_worker_that_was_started_anew_is_ended_if_that_fails(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.up(silent)
    killed(first, "ray")
    monkeypatch.setitem(ROLES, "worker", replace(ROLES["worker"], start_seconds=0.3))
    fake.ready = lambda role, state: role != "worker"
    with socket.create_server(("127.0.0.1", first.ports["ray_dashboard"])), pytest.raises(StackError):
        local.up(silent)
    now = local.file.load()
    assert now is not None
    assert {role for role in ROLES if process_of_role(now, role)} == set(ROLES) - {"ray", "worker"}
    assert pids(now)["worker"] != pids(first)["worker"]


def test_a_worker_that_does_not_come_back_to_a_new_server_is_replaced_without_its_flows(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.up(silent)
    wait_for(lambda: len(family(first, ["worker"])) == 2)  # with its flow
    flow = next(p for p in family(first, ["worker"]) if p.pid != first.processes["worker"].pid)
    killed(first, "prefect")
    monkeypatch.setattr(starting, "RETURN_SECONDS", 0.3)
    fake.ready = lambda role, state: role != "worker" or fake.started.count("worker") == 2
    said: list[str] = []
    second = local.up(said.append)
    assert pids(second)["worker"] != pids(first)["worker"]
    assert process_of_role(first, "worker") is None
    assert flow.is_running()
    assert any("has not come back to the server" in line for line in said)
