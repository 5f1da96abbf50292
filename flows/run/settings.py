"""The settings of a flow process: environment variables that the local stack or an operator gives it."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from model.errors import ConfigError
from pipeline.artifacts.paths import HOME, PROJECT, STORE, scratch_folder, store_root
from pipeline.config import Config

JOBS_URL = "AGEVLM_RAY_JOBS_URL"
REPO = "AGEVLM_REPO"
CLUSTER_CPUS = "AGEVLM_CLUSTER_CPUS"
CLUSTER_GPUS = "AGEVLM_CLUSTER_GPUS"
REMEDY = "start the local stack with 'agevlm up', then 'eval \"$(agevlm env)\"' in this shell"
PASSED_ON = ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV")
"""Variables of the flow process that each job sets too. Never the token: a job's SPEC.json is readable in the store."""


class Totals(Config):
    """The CPUs and GPUs of a cluster."""

    cpus: float = Field(ge=0)
    gpus: float = Field(default=0, ge=0)


class Settings(Config):
    """The settings of a flow run. Nothing here changes a result."""

    store: str = Field(description="root of the artifact store: absolute local path or fsspec URL")
    scratch: Path = Field(description="local folder for temporary files")
    jobs_url: str = Field(description="address of Ray's dashboard, which serves the Jobs API")
    repo: Path = Field(description="the project's folder, on every node; jobs run in it")
    totals: Totals | None = Field(default=None, description="size of the cluster, if it is declared; None: ask Ray")
    passed_on: dict[str, str] = Field(default_factory=dict, description="variables that each job sets first")

    def job_page(self, submission_id: str) -> str:
        """URL of a job's page on the Ray dashboard."""
        return f"{self.jobs_url}/#/jobs/{submission_id}"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from environment variables. Raises ConfigError naming a variable that is missing or wrong."""
    env = os.environ if environment is None else environment
    _required(env, STORE, "the artifact store's root")
    _required(env, HOME, "the folder for temporary files")
    jobs_url = _required(env, JOBS_URL, "the address of Ray's dashboard").rstrip("/")
    repo = Path(env.get(REPO) or PROJECT)
    cpus, gpus = _number(env, CLUSTER_CPUS), _number(env, CLUSTER_GPUS)
    return Settings(
        store=store_root(env),
        scratch=scratch_folder(env),
        jobs_url=jobs_url,
        repo=repo,
        totals=None if cpus is None else Totals(cpus=cpus, gpus=gpus or 0),
        passed_on={name: env[name] for name in PASSED_ON if name in env},
    )


def git_commit(repo: Path) -> str | None:
    """The commit that is checked out, with '-dirty' if tracked files differ; None outside of a git checkout."""
    try:
        command = ["git", "-C", str(repo)]
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=20)
        changes = subprocess.run(
            [*command, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def _required(env: Mapping[str, str], name: str, what: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise ConfigError(f"the environment variable {name} ({what}) is not set: {REMEDY}")
    return value


def _number(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"the environment variable {name} = '{text}' is not a number; correct or unset it") from error
    if not 0 <= value < float("inf"):
        raise ConfigError(f"the environment variable {name} = '{text}' must be 0 or more; correct or unset it")
    return value
