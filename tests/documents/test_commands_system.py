"""The commands of the documents that need a stack run on one, in the order of the pages."""

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.store import ArtifactStore
from tests.documents.fixtures_commands import Command, all_commands, rule_of
from tests.documents.fixtures_recipe import write_recipe
from tests.infra.local.fixtures_home import Home

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
KINDS = {"ID": "inventory", "MASKS": "masks", "OTHER_MASKS": "masks"}
LAST = ("agevlm down", "agevlm up")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home without a stack: the first command of the quickstart starts it."""
    found = Home(tmp_path_factory.mktemp("documents") / "home")
    yield found
    found.agevlm("down")


class Reader:
    """A reader's shell: the activated environment, in a folder with the recipe of docs/your-data.md."""

    def __init__(self, home: Home, folder: Path) -> None:
        self._home, self._folder = home, folder
        write_recipe(folder)
        (block,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "operate.md").read_text("utf-8"), re.DOTALL)
        (folder / "follow.py").write_text(block, encoding="utf-8")
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        program = programs / "agevlm"
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{PROJECT}" exec "{sys.executable}" -P -m flows "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = {**home.environment, "PATH": path}
        self._lines = "set -e -o pipefail"

    def run(self, command: Command) -> str:
        """Run a command as the document has it. Returns its output."""
        text = self._filled(command.text)
        if text.startswith("eval "):
            # Its variables stay for the commands after it, PATH among them; the reader's agevlm stays the first.
            programs = shlex.quote(str(self._folder / ".venv" / "bin"))
            self._lines = f"set -e -o pipefail\n{self._home.agevlm('env').stdout}\nexport PATH={programs}:$PATH"
        script = f"{self._lines}\n{text}\n"
        result = subprocess.run(
            ["bash", "-c", script], cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=400
        )
        assert result.returncode == 0, f"{command.document}: {text}\n{result.stdout[-4000:]}{result.stderr[-3000:]}"
        return result.stdout

    def _filled(self, text: str) -> str:
        """The command with real ids: the first of a kind is the newest artifact, a second one the oldest."""
        given: list[str] = []

        def fill(found: re.Match[str]) -> str:
            word = found[0]
            if word == "RUN_ID":
                return self.newest_run()
            ids = self.ids(KINDS[word])
            given.append(ids[0] if given else ids[-1])
            return given[-1]

        return re.sub(rf"\b({'|'.join([*KINDS, 'RUN_ID'])})\b", fill, text)

    def ids(self, kind: str) -> list[str]:
        """Ids of the store's artifacts of a kind, the newest last."""
        store = ArtifactStore(str(self._home.path / "artifacts"))
        found = sorted(store.artifacts(kind=kind), key=lambda artifact: artifact.manifest.provenance.started)
        return [artifact.ref.id[:12] for artifact in found]

    def newest_run(self) -> str:
        """Id of the newest flow run in Prefect."""
        (run,) = self._home.prefect.insist("/flow_runs/filter", {"limit": 1, "sort": "EXPECTED_START_TIME_DESC"})
        return str(run["id"])


def test_the_commands_run_in_the_order_of_the_pages(home: Home, tmp_path: Path) -> None:
    reader = Reader(home, tmp_path)
    commands = [command for command in all_commands() if (rule := rule_of(command)) and rule.where == "stack"]
    seen: set[str] = set()
    last = {}
    for command in commands:
        if command.text in LAST:
            last[command.text] = command
        elif command.text not in seen:
            seen.add(command.text)
            output = reader.run(command)
            if command.text.endswith("--json | python follow.py"):
                assert re.search(r"^the run completed: ", output, re.MULTILINE), output
                assert home.secret not in output
    assert len(seen) > 15
    reader.run(last["agevlm up"])
    reader.run(last["agevlm down"])
    assert not (home.path / "stack.json").exists()
    logs = list((home.path / "artifacts" / "runs").glob("*.events.jsonl"))
    assert logs
    assert all(home.secret not in log.read_text() for log in logs)
