"""One stack in the surroundings that break one: proxies, odd paths, a long TMPDIR, variables of other programs."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from infra.local.processes import family
from infra.local.stack_file import StackState
from pipeline.artifacts.paths import PROJECT
from tests.infra.local.fixtures_home import Home, wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

NOBODY = "http://127.0.0.1:9"
"""A proxy that refuses every connection."""
SURROUNDINGS = {
    "HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY, "http_proxy": NOBODY, "https_proxy": NOBODY, "grpc_proxy": NOBODY,
    "ALL_PROXY": "socks5://user:word@127.0.0.1:9", "no_proxy": "internal.example",
    "RAY_ADDRESS": "10.0.0.1:6379", "RAY_TMPDIR": "/nonexistent", "PREFECT_API_URL": "http://10.0.0.1:4200/api",
    "PYTHONOPTIMIZE": "2", "PYTHONSTARTUP": "/nonexistent", "LC_ALL": "POSIX", "TERM": "dumb", "COLUMNS": "20",
    "OMP_NUM_THREADS": "10000", "CUDA_VISIBLE_DEVICES": "", "WEB_CONCURRENCY": "4", "SSL_CERT_FILE": "/nonexistent.pem",
    "RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "SLURM_PROCID": "3", "OTEL_SDK_DISABLED": "true",
}  # fmt: skip


@dataclass(frozen=True)
class OddHome(Home):
    """A home whose commands run in a copy of the project and in odd surroundings."""

    project: Path = PROJECT
    temporary: Path = Path("/tmp")

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in super().environment.items() if name not in ("USER", "LOGNAME", "HOME")}
        return {**kept, **SURROUNDINGS, "TMPDIR": str(self.temporary), "PYTHONPATH": str(self.project)}

    @property
    def python(self) -> str:
        return str(self.project / ".venv" / "bin" / "python")

    def agevlm(self, *arguments: str, timeout: float = 800) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-P", "-m", "flows", *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, cwd="/", check=False
        )


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddHome]:
    """A stack that is up in them."""
    folder = tmp_path_factory.mktemp("odd") / 'it\'s a "b" #%&;$x [\u00e9]!*()~\\ -p'
    project = folder / "project"
    for name in ("flows", "infra", "model", "pipeline"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, project)
    (project / ".venv").symlink_to(sys.prefix)
    temporary = folder / ("t" * 100) / ("u" * 100)
    temporary.mkdir(parents=True)
    found = OddHome(folder / "home", project, temporary)
    result = found.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "note: ALL_PROXY is not handed on to the stack" in result.stdout
    assert "user:word" not in result.stdout
    yield found
    found.agevlm("down")


def test_a_run_with_ray_workers_completes(odd: OddHome) -> None:
    result = odd.agevlm("run", "agevlm/full-recipe", "-p", "until=segment-pretrain", "-p", "limit=8", "--watch")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "segment-pretrain" in result.stdout
    assert list(odd.temporary.iterdir()), "large temporary files go to the user's folder"


def test_another_shell_talks_to_both_servers(odd: OddHome) -> None:
    script = 'set -e; eval "$("$PYTHON" -P -m flows env)"; prefect deployment ls; ray job list; env'
    environment = {**odd.environment, "PYTHON": odd.python, "COLUMNS": "200"}
    result = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "agevlm/full-recipe" in result.stdout
    assert "no_proxy=internal.example,127.0.0.1,localhost,::1\n" in result.stdout
    assert f"HTTPS_PROXY={NOBODY}\n" in result.stdout  # for everything else


def test_an_up_just_after_an_agent_was_killed_replaces_ray(odd: OddHome) -> None:
    before: StackState = odd.state
    agent = "ray::RuntimeEnvAgent"
    (killed,) = (process for process in family(before, ["ray"]) if agent in "".join(_command(process)[:1]))
    killed.kill()  # the raylet ends seconds later
    result = odd.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "not running: Ray head" in result.stdout
    wait_for(lambda: odd.agevlm("status").returncode == 0, 60)
    assert odd.state.processes["ray"].pid != before.processes["ray"].pid


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
