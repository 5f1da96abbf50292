"""PostgreSQL, as Debian's package installs it, as the database of the stack's Prefect server."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local.ports import free_ports
from infra.local.processes import environment_of, family
from pipeline.artifacts.paths import PROJECT
from tests.infra.local.fixtures_home import Home, wait_for

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/none/initdb")).parent
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PROGRAMS.exists(), reason="PostgreSQL is not installed"),
]


@dataclass(frozen=True)
class Database:
    """A PostgreSQL server with one user and password."""

    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://agevlm:{self.password}@127.0.0.1:{self.port}/postgres"

    def ask(self, query: str) -> str:
        command = [
            PROGRAMS / "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "agevlm",
            "-Atc",
            query,
            "postgres",
        ]
        environment = {**os.environ, "PGPASSWORD": self.password}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def database() -> Iterator[Database]:
    """A server of its own in a temporary folder; PostgreSQL refuses to run as root."""
    folder, user = Path(tempfile.mkdtemp(prefix="agevlm-pg-")), "postgres" if os.getuid() == 0 else None
    password, (port,) = secrets.token_hex(12), free_ports(1)
    (folder / "password").write_text(password)
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    data = folder / "data"
    make = [PROGRAMS / "initdb", "-D", data, "-U", "agevlm", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
    made = subprocess.run(make, user=user, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    command = [PROGRAMS / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
    process = subprocess.Popen(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = Database(port, password)
        ready = [PROGRAMS / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder)


def test_up_deploy_run_and_down_with_postgresql(database: Database, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    given = {"AGEVLM_PREFECT_DATABASE_URL": database.url}
    try:
        result = home.agevlm("up", environment=given)
        assert result.returncode == 0, result.stdout + result.stderr
        assert database.password not in result.stdout + result.stderr
        assert int(database.ask("select count(*) from deployment")) == 4
        toy = "tests/flows/fixtures_toy_flow.py:toy -n toy -p local --prefect-file /dev/null"
        run = "prefect deployment run toy/toy -p 'steps={\"one\": [{}, []]}' --watch"
        shown = home.shell(f"cd {PROJECT}; prefect --no-prompt deploy {toy}; {run}")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert database.ask("select state_type from flow_run") == "COMPLETED"
        assert not (home.path / "prefect" / "prefect.db").exists()
        # Only the server knows the password.
        server = home.state.processes["prefect"].pid
        holders = [p for p in family(home.state) if database.password in "".join(environment_of(p).values())]
        assert server in [p.pid for p in holders]
        assert not [p for p in holders if p.pid != server and server not in [q.pid for q in p.parents()]]
        assert all(
            database.password not in path.read_text(errors="replace")
            for path in [*(home.path / "logs").glob("*.log"), home.path / "stack.json"]
        )
        # A killed server comes back with the same database, from a shell that does not know its address.
        os.kill(server, signal.SIGKILL)
        time.sleep(0.5)
        again = home.agevlm("up")
        assert again.returncode == 0, again.stdout + again.stderr
        assert database.ask("select count(*) from flow_run") == "1"
        assert "toy/toy" in again.stdout
    finally:
        assert home.agevlm("down").returncode == 0
