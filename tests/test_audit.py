"""`make audit` says what it found, and never that nothing is wrong when it could not ask."""

import json
import subprocess

import pytest

from scripts import audit


class FakeUv:
    """Answers as uv does: a report of advisories, and the newest versions in the index."""

    def __init__(self) -> None:
        self.report: object = {"dependencies": [{"name": "a", "version": "1", "vulns": []}]}
        self.now, self.old = {"a": "2", "b": "1.0"}, {"a": "1", "b": "0.9"}
        self.reachable = True
        self.answers = 99
        """Calls that are answered before the network fails."""

    def __call__(self, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        self.answers -= 1
        if not self.reachable or self.answers < 0:
            return subprocess.CompletedProcess(arguments, 2, "", "error: no route to host")
        if arguments[0] == "tool":
            with open(arguments[-1], "w", encoding="utf-8") as file:
                json.dump(self.report, file)
            return subprocess.CompletedProcess(arguments, 0, "", "")
        versions = self.old if "--exclude-newer" in arguments else self.now
        found = [f"{name}=={versions[name]}" for name in (text or "").split() if name in versions]
        return subprocess.CompletedProcess(
            arguments, 0 if found else 1, "\n".join(found), "error: No solution found when resolving dependencies"
        )


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    fake = FakeUv()
    monkeypatch.setattr(audit, "uv", fake)
    monkeypatch.setattr(audit, "direct", lambda: {"a": '"a>=1",  # used', "b": '"b==1.0",  # used'})
    return fake


def test_nothing_found(uv: FakeUv, capsys: pytest.CaptureFixture[str]) -> None:
    assert (audit.vulnerabilities(), audit.abandoned()) == (0, 0)
    assert "NOT CHECKED" not in capsys.readouterr().err


def test_an_advisory_fails(uv: FakeUv, capsys: pytest.CaptureFixture[str]) -> None:
    uv.report = {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]}
    assert audit.vulnerabilities() == 1
    assert "a 1: X-1, fixed in 2" in capsys.readouterr().out


def test_what_could_not_be_asked_fails_and_says_so(uv: FakeUv, capsys: pytest.CaptureFixture[str]) -> None:
    uv.report = {"dependencies": [{"name": "a", "skip_reason": "not found"}]}
    assert audit.vulnerabilities() == 2
    assert "NOT CHECKED for vulnerabilities: no answer about a" in capsys.readouterr().err
    uv.reachable = False
    assert (audit.vulnerabilities(), audit.abandoned()) == (2, 2)
    said = capsys.readouterr().err
    assert said.count("NOT CHECKED") == 2
    assert said.count("no route to host") == 2


def test_an_old_package_needs_a_reason(
    uv: FakeUv, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uv.old["b"] = "1.0"
    assert audit.abandoned() == 1
    assert "b 1.0: no release in 3 years: no reason in pyproject.toml" in capsys.readouterr().out
    monkeypatch.setattr(audit, "direct", lambda: {"b": '"b==1.0",  # used; last release 2020: nothing else does it'})
    assert audit.abandoned() == 0


def test_every_direct_dependency_is_asked_about() -> None:
    found = audit.direct()
    assert {"prefect", "ray", "segment-anything", "pytest"} <= found.keys()
    assert "last release" in found["segment-anything"]


def test_a_network_that_fails_in_the_middle_is_not_taken_for_new_packages(
    uv: FakeUv, capsys: pytest.CaptureFixture[str]
) -> None:
    uv.old = uv.now  # both are abandoned
    uv.answers = 1
    assert audit.abandoned() == 2
    assert "NOT CHECKED for abandoned packages" in capsys.readouterr().err


def test_a_package_that_the_index_does_not_have_is_said(uv: FakeUv, capsys: pytest.CaptureFixture[str]) -> None:
    uv.now = uv.old = {}
    assert audit.abandoned() == 2
    assert "NOT CHECKED for abandoned packages" in capsys.readouterr().err
