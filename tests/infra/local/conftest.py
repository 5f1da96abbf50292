"""A stack for one test: its folders, and one with sleeping processes in the place of servers."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from infra.local import starting
from infra.local.folders import Folders
from infra.local.roles.table import ROLES
from infra.local.stack import LocalStack
from infra.local.stack_file import StackState
from pipeline.artifacts.paths import PROJECT
from tests.infra.local.fixtures_fake_stack import FakeServices, process_of_role, silent, stack_in


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The folders of a stack of this project, in an empty home."""
    return Folders(project=PROJECT, home=tmp_path / "home", store=str(tmp_path / "home" / "artifacts"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServices:
    found = FakeServices()
    for name, role in ROLES.items():
        fake_role = replace(
            role,
            start=partial(found.start_role, name),
            ready=partial(found.is_ready, name),
            broken=partial(found.is_broken, name),
            wanted=partial(found.is_wanted, name),
        )
        monkeypatch.setitem(ROLES, name, fake_role)
    monkeypatch.setattr(starting, "make_pool", lambda api: None)
    monkeypatch.setattr(starting, "deploy", lambda folders, state: ["agevlm/full-recipe"])
    monkeypatch.setattr(starting, "cancel_lost_runs", lambda api, store, end_cancel: [])
    monkeypatch.setattr(starting, "crash_lost_runs", found.crash_lost_runs)
    return found


@pytest.fixture
def local(fake: FakeServices, folders: Folders) -> Iterator[LocalStack]:
    found = stack_in(folders)
    fake.worker_lives = lambda: process_of_role(found.file.load() or StackState(id="x"), "worker") is not None
    yield found
    found.down(silent)
