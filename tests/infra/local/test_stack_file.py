"""The record of a stack: written, read, damaged, and locked."""

import json

import pytest

from infra.local.folders import Folders
from infra.local.stack_file import ProcessRecord, StackError, StackFile, StackState
from pipeline.artifacts.atomic import write_text

RECORD = ProcessRecord(role="ray", pid=7, created=12.5, log="ray.log", command=["ray", "start"])


@pytest.fixture
def file(folders: Folders) -> StackFile:
    return StackFile(folders.state_file, write_text)


def test_what_is_saved_is_loaded(file: StackFile) -> None:
    saved = StackState(id="abc", ports={"prefect": 4}, cpus=4).with_process(RECORD)
    file.save(saved)
    assert file.load() == saved
    assert saved.url("prefect") == "http://127.0.0.1:4"
    file.forget()
    assert file.load() is None
    file.forget()  # no error if there is none


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"id": "x", "ports": 7}'])
def test_a_damaged_record_is_named_with_the_remedy(content: bytes, file: StackFile) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with pytest.raises(StackError, match=r"stack\.json is damaged \(.+\); 'agevlm down' ends its stack"):
        file.load()


def test_fields_of_another_version_are_ignored(file: StackFile) -> None:
    saved = StackState(id="abc").with_process(RECORD)
    file.path.parent.mkdir()
    value = saved.model_dump(mode="json") | {"colour": "red"}
    value["processes"]["ray"]["mood"] = "good"
    file.path.write_text(json.dumps(value))
    assert file.load() == saved


def test_two_commands_at_once_are_refused(file: StackFile) -> None:
    with file.lock(), pytest.raises(StackError, match="another 'agevlm up'"), file.lock():
        pytest.fail("the lock was taken twice")
    with file.lock():
        pass  # it is free again
