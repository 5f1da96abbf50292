"""The settings of a flow process, and its messages when one is missing or wrong."""

import subprocess
from pathlib import Path

import pytest

from flows.run.settings import git_commit, read_settings
from model.errors import ConfigError

GIVEN = {"AGEVLM_STORE": "/data/store", "AGEVLM_HOME": "/data/home", "AGEVLM_RAY_JOBS_URL": "http://127.0.0.1:1/"}


def test_settings_come_from_the_environment() -> None:
    settings = read_settings({**GIVEN, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"})
    assert settings.store == "/data/store"
    assert settings.scratch == Path("/data/home/scratch")
    assert settings.job_page("x-r1") == "http://127.0.0.1:1/#/jobs/x-r1"
    assert settings.totals is None
    assert "secret" not in settings.model_dump_json(), "a token must never reach a job's SPEC.json"


def test_a_remote_store_keeps_its_url() -> None:
    assert read_settings({**GIVEN, "AGEVLM_STORE": "s3://bucket/agevlm"}).store == "s3://bucket/agevlm"


def test_a_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = read_settings({**GIVEN, "AGEVLM_STORE": "~/store", "AGEVLM_HOME": "~/home"})
    assert (settings.store, settings.scratch) == (str(tmp_path / "store"), tmp_path / "home" / "scratch")


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_a_missing_variable_is_named_with_the_remedy(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({key: value for key, value in GIVEN.items() if key != name})
    assert name in str(caught.value)
    assert "agevlm up" in str(caught.value)


def test_a_declared_cluster_is_not_asked() -> None:
    settings = read_settings({**GIVEN, "AGEVLM_CLUSTER_CPUS": "64", "AGEVLM_CLUSTER_GPUS": "8"})
    assert settings.totals is not None
    assert (settings.totals.cpus, settings.totals.gpus) == (64, 8)


@pytest.mark.parametrize("value", ["many", "-1", "inf", "nan"])
def test_a_nonsensical_cluster_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="AGEVLM_CLUSTER_CPUS = "):
        read_settings({**GIVEN, "AGEVLM_CLUSTER_CPUS": value})


def test_the_commit_says_whether_files_differ(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None

    def git(*words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == clean + "-dirty"
