"""The local stack, the artifact store and the settings that the commands work with. Reads the environment for them."""

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.paths import PROJECT, STORE, home_folder, scratch_folder, store_root

if TYPE_CHECKING:
    from flows.run.settings import Settings
    from infra.local.stack import LocalStack
    from pipeline.artifacts.store import ArtifactStore

CANCEL_SECONDS = 120.0
"""Longest time for stopping the jobs of a flow run whose process is gone."""


def local_stack() -> "LocalStack":
    """The local stack of this project, in its home folder."""
    from infra.local.folders import Folders
    from infra.local.private import UMASK, read_umask
    from infra.local.stack import LocalStack
    from infra.local.stack_file import StackFile
    from pipeline.artifacts.atomic import write_text

    umask = read_umask(os.environ.get(UMASK))
    folders = Folders(project=PROJECT, home=home_folder(), store=store_root(), umask=umask)
    return LocalStack(folders, StackFile(folders.state_file, write_text), close_run_file, end_cancel)


def store_in_use() -> str:
    """Root of the store that commands work on: `$AGEVLM_STORE`, else that of the recorded stack, else the home's."""
    state = None if os.environ.get(STORE) else local_stack().file.load()
    return (state.store if state is not None else "") or store_root()


def open_store() -> "ArtifactStore":
    """The store in use."""
    from pipeline.artifacts.store import ArtifactStore

    return ArtifactStore(store_in_use())


def offline_settings() -> "Settings":
    """A flow's settings for work that needs no Ray."""
    from flows.run.settings import Settings

    return Settings(store=store_in_use(), scratch=scratch_folder(), jobs_url="", repo=PROJECT)


def run_student_program(name: str, arguments: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run `python -m pipeline.student.NAME` on the store in use. It imports torch, so it runs in another process.

    Args:
        name: module in `pipeline.student`.
        arguments: of the program.
        options: of `subprocess.run`.
    """
    command = [sys.executable, "-P", "-m", f"pipeline.student.{name}", *arguments]
    environment = local_stack().process_environment({STORE: store_in_use()})
    return subprocess.run(command, env=environment, check=False, text=True, **options)


def close_run_file(store: str, flow_run_id: str, message: str) -> str:
    """Record in the run file of a flow run that it crashed. Returns the problem if that fails, else ''."""
    from flows.run.run_file import close_run, read_run
    from model.errors import AgevlmError
    from pipeline.artifacts.store import ArtifactStore

    try:
        artifacts = ArtifactStore(store)
        record = read_run(artifacts, flow_run_id)
        if record is not None:
            close_run(artifacts, record, "crashed", message)
    except (AgevlmError, OSError) as error:
        return f"its run file stays open: {error}"
    return ""


def end_cancel(store: str, flow_run_id: str) -> str:
    """Stop the Ray jobs of a flow run that was being cancelled. Returns the problem if that fails, else ''.

    In another process: it needs the environment of a flow.
    """
    command = [sys.executable, "-P", "-m", "flows.run.lost_cancel", flow_run_id]
    environment = local_stack().process_environment({STORE: store})
    try:
        subprocess.run(command, env=environment, check=True, text=True, capture_output=True, timeout=CANCEL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"its jobs were not stopped within {CANCEL_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return f"its jobs were not stopped: {reason[-1]}"
    return ""
