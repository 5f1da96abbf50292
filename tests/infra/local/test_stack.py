"""The life of a stack: up, up again, down, and its record."""

import json
from dataclasses import replace

import pytest

from infra.local.processes import family
from infra.local.roles.table import ROLES
from infra.local.stack import LocalStack
from infra.local.stack_file import StackError, StackState
from tests.infra.local.fixtures_fake_stack import (
    FakeServices,
    killed,
    process_of_role,
    silent,
    stack_in,
)
from tests.infra.local.fixtures_home import wait_for


def test_up_starts_all_and_down_ends_all(local: LocalStack, fake: FakeServices) -> None:
    state = local.up(silent)
    assert set(state.processes) == set(ROLES)
    assert local.file.load() == state
    assert fake.started[-1] == "worker"  # it gives the addresses of the others to its flows
    wait_for(lambda: len(family(state)) == 2 * len(ROLES))  # each with its child
    assert {row.state for row in local.status()} == {"ready"}
    assert local.down(silent) == 2 * len(ROLES)
    assert family(state) == []
    assert local.file.load() is None
    assert local.down(silent) == 0


def test_up_twice_starts_nothing_twice(local: LocalStack, fake: FakeServices) -> None:
    first = local.up(silent)
    second = local.up(silent)
    assert second == first
    assert sorted(fake.started) == sorted(ROLES)


@pytest.mark.parametrize("everything", [True, False])
def test_down_after_parents_were_killed(local: LocalStack, everything: bool) -> None:
    state = local.up(silent)
    wait_for(lambda: len(family(state)) == 2 * len(ROLES))
    killed(state, *(ROLES if everything else ("ray",)))
    assert local.down(silent) == (len(ROLES) if everything else 2 * len(ROLES) - 1)
    assert family(state) == []


def test_a_stack_whose_record_is_lost_is_not_doubled_and_can_be_ended(local: LocalStack) -> None:
    state = local.up(silent)
    wait_for(lambda: len(family(state)) == 2 * len(ROLES))
    local.file.forget()
    for command in (lambda: local.up(silent), local.status):
        with pytest.raises(StackError, match="no file records them; end them with 'agevlm down'"):
            command()
    assert len(family(state)) == 2 * len(ROLES)
    assert local.down(silent) == 2 * len(ROLES)
    assert family(state) == []
    assert local.status() == []


def test_a_stack_beside_a_recorded_one_is_ended_too(local: LocalStack) -> None:
    first = local.up(silent)
    local.file.save(StackState(id="another"))
    with pytest.raises(StackError, match="no file records them"):
        local.up(silent)
    assert local.down(silent) >= len(ROLES)
    assert family(first) == []


def test_a_stack_of_another_home_is_left_alone(local: LocalStack) -> None:
    state = local.up(silent)
    other = stack_in(replace(local.folders, home=local.folders.home / "other"))
    assert other.status() == []
    assert other.down(silent) == 0
    assert {role for role in ROLES if process_of_role(state, role)} == set(ROLES)


@pytest.mark.parametrize("content", ["", "{", '{"id": 7}'])
def test_down_works_with_a_damaged_record(content: str, local: LocalStack) -> None:
    state = local.up(silent)
    local.file.path.write_text(content)
    for command in (lambda: local.up(silent), local.status, local.require):
        with pytest.raises(StackError, match=r"is damaged(.|\n)*agevlm down"):
            command()
    said: list[str] = []
    assert local.down(said.append) >= len(ROLES)
    assert "is damaged" in said[0]
    assert family(state) == []
    assert not local.file.path.exists()


def test_the_record_of_another_version_is_understood(local: LocalStack) -> None:
    state = local.up(silent)
    local.file.path.write_text(json.dumps({**state.model_dump(mode="json"), "colour": "red"}))
    assert {row.state for row in local.status()} == {"ready"}
    assert local.up(silent) == state
    assert local.down(silent) >= len(ROLES)


def test_a_living_stack_of_another_project_is_not_used(local: LocalStack) -> None:
    theirs = local.up(silent).model_copy(update={"root": "/their/project"})
    local.file.save(theirs)
    for command in (lambda: local.up(silent), local.require):
        with pytest.raises(
            StackError, match=r"belongs to the project in /their/project, but this is .*unset AGEVLM_HOME"
        ):
            command()
    assert {row.state for row in local.status()} == {"ready"}
    killed(theirs, *ROLES)
    assert local.up(silent).root == str(local.folders.project)  # no living process imports theirs
    local.require()


def test_the_store_of_a_living_stack_cannot_be_changed(local: LocalStack) -> None:
    first = local.up(silent)
    assert first.store == local.folders.store
    other = stack_in(replace(local.folders, store="/elsewhere"))
    assert other.process_environment({})["AGEVLM_STORE"] == first.store  # the store of its flows
    with pytest.raises(StackError, match=r"works on the store .*artifacts, but here the store is /elsewhere"):
        other.up(silent)
    other.down(silent)
    assert other.up(silent).store == "/elsewhere"


def test_up_and_down_do_not_run_at_once(local: LocalStack) -> None:
    with local.file.lock(), pytest.raises(StackError, match="is running"):
        local.up(silent)


def test_old_ray_sessions_lose_all_but_their_logs(local: LocalStack) -> None:
    folder = local.folders.ray
    for day in range(1, 6):
        for part in ("logs", "sockets"):
            (folder / f"session_2026-01-0{day}_x" / part).mkdir(parents=True)
            (folder / f"session_2026-01-0{day}_x" / part / "file").write_text("x")
    (folder / "session_latest").symlink_to(folder / "session_2026-01-05_x")
    (folder / "other").mkdir()
    local.up(silent)
    left = {str(path.relative_to(folder)) for path in folder.rglob("file")}
    assert left == {f"session_2026-01-0{day}_x/logs/file" for day in (3, 4, 5)}
    assert (folder / "other").is_dir()


def test_up_makes_the_secret_and_takes_the_home_from_other_users(local: LocalStack) -> None:
    home = local.folders.home
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "old.log").touch()
    for path, mode in ((home, 0o755), (home / "logs", 0o777), (home / "logs" / "old.log", 0o644)):
        path.chmod(mode)
    said: list[str] = []
    local.up(said.append)
    assert f"2 files and folders in {home} were open to other users" in said[0]
    assert home.stat().st_mode & 0o777 == 0o700
    assert not [path for path in home.rglob("*") if path.lstat().st_mode & 0o077]
    assert len(local.secret()) == 64
    assert local.secret() not in "".join(said)


def test_a_lost_secret_is_taken_from_the_living_servers(local: LocalStack) -> None:
    local.up(silent)
    secret = local.secret()
    local.folders.secret.unlink()
    said: list[str] = []
    local.up(said.append)
    assert local.secret() == secret
    assert "written again, with the secret of the running servers" in "".join(said)


def test_pages_listen_on_the_host_that_was_asked_for(local: LocalStack, fake: FakeServices) -> None:
    with pytest.raises(StackError, match="no address of this machine"):
        local.up(silent, "192.0.2.1")
    assert fake.started == []
    state = local.up(silent, "0.0.0.0")
    assert (state.host, state.url("prefect")) == ("0.0.0.0", f"http://127.0.0.1:{state.ports['prefect']}")
    assert local.up(silent) == state, "without the option it stays as it is"
    with pytest.raises(StackError, match=r"listens on 0\.0\.0\.0; to listen on 127\.0\.0\.1, end it"):
        local.up(silent, "127.0.0.1")
    local.down(silent)
    assert local.up(silent).host == "127.0.0.1"
