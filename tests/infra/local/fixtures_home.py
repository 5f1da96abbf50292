"""A home with its own stack, driven through the command line as a user does it; for tests with real servers."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.stack_file import StackState
from infra.local.web import Server, basic, bearer
from pipeline.artifacts.paths import PROJECT


@dataclass(frozen=True)
class Home:
    """The home folder of a stack, and the commands that use it."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "AGEVLM_"))}
        return {**kept, "AGEVLM_HOME": str(self.path), "PYTHONPATH": str(PROJECT)}

    def agevlm(
        self, *arguments: str, timeout: float = 800, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "flows", *arguments]
        variables = {**self.environment, **(environment or {})}
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=timeout, cwd="/", check=False
        )

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        text = f'set -e; eval "$({sys.executable} -P -m flows env)"; {script}'
        return subprocess.run(
            ["bash", "-c", text], env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def deploy_toys(self, options: str = "") -> None:
        """Deploy the toy flow beside the real ones; `options`: of `prefect deploy`. Raises RuntimeError."""
        toy = "tests/flows/fixtures_toy_flow.py:toy"
        command = f"prefect --no-prompt deploy {toy} -n toy -p local --prefect-file /dev/null {options}"
        result = self.shell(f"cd {PROJECT}; {command}")
        if result.returncode:
            raise RuntimeError(result.stdout + result.stderr)

    @property
    def state(self) -> StackState:
        return StackState.model_validate_json((self.path / "stack.json").read_text())

    @property
    def secret(self) -> str:
        return (self.path / "secret").read_text()

    @property
    def prefect(self) -> Server:
        """The REST API of its Prefect server."""
        return Server(self.state.url("prefect") + "/api", basic(self.secret))

    @property
    def ray(self) -> Server:
        """The REST API of its Ray head."""
        return Server(self.state.url("ray_dashboard"), bearer(self.secret))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return as soon as the condition holds; fail the test if that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
