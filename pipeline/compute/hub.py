"""Weights from a hub: 'hub:ORG/NAME@COMMIT' is downloaded into this machine's Hugging Face cache."""

import os
import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from model.teachers.weights.files import INDEX, MOST_JSON
from model.teachers.weights.header import HEADER_BYTES
from model.teachers.weights.identify import CONFIG, identify

PREFIX = "hub:"
NAME = re.compile(r"^hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}$")
ANSWER_SECONDS = 10.0
"""A hub that has not answered by then is unreachable. huggingface_hub alone tries six times, for minutes."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.pkl", "*.pickle", "*.onnx", "*.ot")
"""Files of a repository that are never loaded, and so never downloaded."""
FIRST_BYTES = 100_000
"""Bytes of a .safetensors file that are asked for first: most headers are shorter."""


def is_hub_name(location: str) -> bool:
    """True if weights are given as a hub repository and not as a path."""
    return location.startswith(PREFIX)


def cached_folder(location: str, files: Sequence[str] | None = None) -> Path | None:
    """The folder of a hub repository in this machine's cache; None if it is not there as a whole. Asks nobody.

    Args:
        location: 'hub:ORG/NAME@COMMIT'.
        files: patterns of the files that are needed; None for the weights and all beside them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, commit = _parts(location)
    try:
        folder = Path(snapshot_download(name, revision=commit, local_files_only=True, **_patterns(files)))
    except (OSError, HFValidationError):  # not cached, or only in part
        return None
    # An older huggingface_hub kept no list of a commit's files, so that a part of them passes for the whole.
    wanted = ("*.safetensors",) if files is None else tuple(files)[:1]
    return folder if any(next(folder.glob(pattern), None) for pattern in wanted) else None


def local_folder(role: str, location: str, files: Sequence[str] | None = None) -> Path:
    """The local folder of weights: a path is returned unchanged, a hub repository is downloaded first.

    Args:
        role: 'text', 'vision' or 'florence'; named in errors.
        location: a local path or 'hub:ORG/NAME@COMMIT'.
        files: patterns of the files that are needed; None for all.

    A commit that is in the cache is used without asking the hub. Otherwise the hub has ANSWER_SECONDS to answer; the
    download itself may take longer. Raises ConfigError if the download fails, or if the hub does not answer.
    """
    if not is_hub_name(location):
        return Path(location)
    if (cached := cached_folder(location, files)) is not None:
        return cached
    from huggingface_hub import HfApi, constants, snapshot_download

    name, commit = _parts(location)
    try:
        if not constants.HF_HUB_OFFLINE:
            _answer(lambda: HfApi().model_info(name, revision=commit, timeout=ANSWER_SECONDS))
        return Path(snapshot_download(name, revision=commit, **_patterns(files)))
    except Exception as error:  # network, authentication and naming errors of many types
        raise _not_fetched(role, location, error) from error


def look(role: str, location: str) -> None:
    """Look at a hub repository's list of files, configuration and headers; no weights are downloaded.

    Args:
        role: 'text', 'vision' or 'florence'.
        location: 'hub:ORG/NAME@COMMIT'.

    A commit that is in the cache needs no look. Raises ConfigError if the weights are not those of the role, or if the
    hub does not answer in ANSWER_SECONDS.
    """
    if cached_folder(location) is not None:
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            _answer(lambda: _outline(*_parts(location), Path(folder)))
        except Exception as error:  # network, authentication and naming errors of many types
            raise _not_fetched(role, location, error) from error
        try:
            if not next(Path(folder).glob("*.safetensors"), None):
                raise ConfigError("it holds no .safetensors file, and pickles are never loaded; give another revision")
            identify(role, Path(folder))
        except ConfigError as error:
            raise ConfigError(f"weights.{role} = '{location}': {error}") from error


def _outline(repository: str, commit: str, folder: Path) -> None:
    """Write a repository's files of weights with their headers only: the rest of each is a hole in the file.

    Its configuration is whole; the other files are empty objects of JSON.
    """
    from huggingface_hub import HfApi, hf_hub_url

    info = HfApi().model_info(repository, revision=commit, files_metadata=True, timeout=ANSWER_SECONDS)
    for file in info.siblings or []:
        path = folder / file.rfilename
        if path.parent != folder:
            continue
        url, content = hf_hub_url(repository, file.rfilename, revision=commit), b"{}"
        if path.name in (CONFIG, INDEX):
            content = _bytes(url, 0, MOST_JSON)
        elif path.suffix == ".safetensors":
            content = _bytes(url, 0, FIRST_BYTES)
            end = 8 + int.from_bytes(content[:8], "little")
            if FIRST_BYTES < end <= HEADER_BYTES:
                content += _bytes(url, FIRST_BYTES, end)
        path.write_bytes(content)
        if path.suffix == ".safetensors" and file.size is not None:
            os.truncate(path, file.size)


def _bytes(url: str, start: int, end: int) -> bytes:
    """A part of a file on the hub; it ends earlier if the file does."""
    from huggingface_hub import utils

    client: Any = utils  # mypy does not see what it exports
    headers = {**client.build_hf_headers(), "range": f"bytes={start}-{end - 1}"}
    response = client.get_session().get(url, headers=headers, timeout=ANSWER_SECONDS)
    client.hf_raise_for_status(response)
    content: bytes = response.content
    return content if response.status_code == 206 else content[start:end]  # 200: the server sent the whole file


def _not_fetched(role: str, location: str, error: Exception) -> ConfigError:
    from huggingface_hub import constants

    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    return ConfigError(
        f"weights.{role} = '{location}' cannot be fetched: {reason}; give a local folder, or download it into the "
        f"cache of this machine (HF_HOME) where {constants.ENDPOINT} can be reached"
    )


def _parts(location: str) -> tuple[str, str]:
    """A repository's name and commit."""
    name, _, commit = location.removeprefix(PREFIX).partition("@")
    return name, commit


def _patterns(files: Sequence[str] | None) -> dict[str, Any]:
    """Arguments of snapshot_download that select these files."""
    return {"ignore_patterns": list(PICKLES)} if files is None else {"allow_patterns": list(files)}


def _answer(ask: Callable[[], object]) -> None:
    """Wait for an answer of the hub. Raises what `ask` raises, TimeoutError after ANSWER_SECONDS.

    `ask` runs in a thread that is left behind: the timeouts of HTTP bound neither the search for the host's address nor
    a server that sends a byte now and then.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:  # given to the caller
            failed.append(error)

    asking = threading.Thread(target=run, name="hub", daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if asking.is_alive():
        raise TimeoutError(f"the hub has not answered in {ANSWER_SECONDS:.0f} s")
    if failed:
        raise failed[0]
