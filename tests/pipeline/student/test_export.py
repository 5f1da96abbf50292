"""`python -m pipeline.student.export`: the folder opens without this project, and is written whole or not at all."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from model.miniature.world import make_scene, render
from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.store import Artifact
from pipeline.student import export
from pipeline.training.student import load_student
from tests.pipeline.fixtures_finished_run import Chain

STRANGER = """
import sys
for name in ("model", "pipeline", "flows"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} of the project is importable here")
exec(sys.stdin.read())
"""
SAVE_AGAIN = """
print(out[0].tolist())
model.save_pretrained("again")
"""


def elsewhere(code: str, folder: Path, home: Path) -> str:
    """The output of the code in a Python that runs in `folder` and cannot import this project."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER],
        input=code, cwd=folder, env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Do you wish" not in ran.stdout  # trust_remote_code holds for all parts of the folder
    return ran.stdout


@pytest.fixture(scope="module")
def chain(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("run") / "store", "age_vlm_lm", model_folder)


@pytest.fixture(autouse=True)
def nothing_half_done(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob("*.partial"))


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(export.main)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def exported(chain: Chain, target: Path, *options: str) -> Artifact:
    result = run(chain.last.ref.id[:12], target, "--store", chain.store.root, *options)
    assert result.exit_code == 0, result.output
    assert f"weights in {options[1] if options else 'float32'}" in result.output
    return chain.last


def test_the_example_of_the_card_runs_where_this_project_is_not(chain: Chain, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "export"
    artifact = exported(chain, folder)
    card = (folder / "README.md").read_text()
    assert artifact.ref.path in card
    assert chain.made["evaluate-age_vlm_lm"].ref.path in card
    assert "# AGE-VLM-LM" in card
    assert f"{sum(p.numel() for p in load_student(folder)[0].parameters()):,}" in card
    assert json.loads((folder / "lineage.json").read_text())["artifact"] == artifact.ref.path

    scene = Image.fromarray(render(make_scene(3))[0])
    scene.save(folder / "photo.jpg", quality=95)
    example = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)[0]
    assert "Answer briefly." in example  # the system turn that it was trained with
    printed = elsewhere(example + SAVE_AGAIN, folder, tmp_path / "hf")

    model, processor = load_student(folder)
    question = {"role": "user", "content": [{"type": "image", "image": Image.open(folder / "photo.jpg")},
                                            {"type": "text", "text": "What is in the picture?"}]}  # fmt: skip
    inputs = processor.apply_chat_template(
        [{"role": "system", "content": "Answer briefly."}, question],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    out = model.generate(**inputs, max_new_tokens=64, eos_token_id=processor.stop_token_ids(model))
    said = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(said) > 10
    assert printed == f"{said}\n{out[0].tolist()}\n"
    assert (folder / "again" / "modeling_agevlm.py").is_file()  # a copy that is saved from there carries the code on
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".md", ".py", ".jinja"):  # no place of the machine that it was made on
            assert not [p for p in (PROJECT, chain.store.root, tmp_path) if str(p) in file.read_text()], file


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def test_the_weights_are_those_of_the_checkpoint(chain: Chain, model_folder: Path, tmp_path: Path) -> None:
    exported(chain, tmp_path / "plain")
    half = tmp_path / "half"
    half.mkdir()  # an empty folder is taken
    exported(chain, half, "--dtype", "bfloat16", "--max-shard-size", "300KB")
    original, plain, halved = weights(model_folder), weights(tmp_path / "plain"), weights(half)
    assert plain.keys() == original.keys() == halved.keys()
    assert all(torch.equal(plain[name], value) for name, value in original.items())
    assert all(torch.equal(halved[name], value.bfloat16()) for name, value in original.items())
    assert len(list(half.glob("*.safetensors"))) > 1
    assert all(file.stat().st_size < 310_000 for file in half.glob("*.safetensors"))
    assert "evaluated in float32, and converted to bfloat16" in (half / "README.md").read_text()
    assert {oct(file.stat().st_mode) for file in half.iterdir()} == {oct((half / "README.md").stat().st_mode)}
    assert {p.dtype for p in load_student(half)[0].parameters()} == {torch.bfloat16}


def test_a_folder_is_exported_without_a_lineage(model_folder: Path, tmp_path: Path) -> None:
    result = run(model_folder, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "its card says nothing of the training" in result.output
    assert not (tmp_path / "out" / "lineage.json").exists()
    assert "not known here" in (tmp_path / "out" / "README.md").read_text()


def refusal(target: Path, *arguments: str | Path) -> str:
    """The message of an export that is refused, and writes nothing."""
    before = {path: path.lstat().st_mtime_ns for path in target.parent.rglob("*")}
    result = run(*arguments, target)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert {path: path.lstat().st_mtime_ns for path in target.parent.rglob("*")} == before
    return result.output


def test_an_existing_file_or_folder_is_never_touched(model_folder: Path, tmp_path: Path) -> None:
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / "mine").write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for target in (full, file, link):
        assert f"'{target}' exists and is not an empty folder" in refusal(target, model_folder)
    assert "cannot be written" in refusal(file / "below", model_folder)


def test_bad_arguments_are_refused_by_name(chain: Chain, model_folder: Path, tmp_path: Path) -> None:
    target, store = tmp_path / "out", ("--store", chain.store.root)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("[1, ")
    for size in ("5", "0GB", "5gb", "-1MB", "5 GB", "1e3GB"):
        assert f"--max-shard-size {size}: write" in refusal(target, model_folder, "--max-shard-size", size)
    assert "holds a 'llama', not an AGE-VLM" in refusal(target, tmp_path / "other")
    assert "config.json is damaged" in refusal(target, tmp_path / "damaged")
    assert "no artifact's id starts with 'abcdef'" in refusal(target, "abcdef", *store)
    assert "not a checkpoint" in refusal(target, chain.made["masks-pretrain"].ref.id[:12], *store)


def test_a_changed_checkpoint_is_refused_by_the_file(model_folder: Path, tmp_path: Path) -> None:
    chain = Chain(tmp_path / "store", "ca_baseline", model_folder)
    file = Path(chain.last.path("model/model.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    asked = (chain.last.ref.id, "--store", chain.store.root)
    assert "model/model.safetensors is not what was published" in refusal(tmp_path / "out", *asked)
    file.unlink()
    assert "model/model.safetensors cannot be read" in refusal(tmp_path / "out", *asked)


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "not finite"), (1e30, "too large for it")])
def test_weights_that_are_not_finite_are_refused(value: float, words: str, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = load_file(file)
    state["model.adapter.linear_1.weight"][0, 0] = value
    save_file(state, file, metadata={"format": "pt"})
    message = refusal(tmp_path / "out", tmp_path / "model", "--dtype", "float16")
    assert words in message
    assert "model.adapter.linear_1.weight" in message


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_export_leaves_nothing(
    error: BaseException, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(model: object, processor: object, folder: Path, *rest: object) -> None:
        (folder / "half").write_text("half")
        raise error

    monkeypatch.setattr("pipeline.student.export.write_folder", stop)
    result = run(model_folder, tmp_path / "out")
    assert result.exit_code != 0
    assert list(tmp_path.iterdir()) == []
    if isinstance(error, OSError):
        assert "cannot be written (No space left on device, its disk has" in result.output


def test_two_exports_to_one_folder_do_not_mix(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def fill_both(model: object, processor: object, folder: Path, *rest: object) -> None:
        (folder / "mine").write_text("mine")
        target.mkdir()
        (target / "other").write_text("other")

    monkeypatch.setattr("pipeline.student.export.write_folder", fill_both)
    result = run(model_folder, target)
    assert result.exit_code == 1
    assert "was filled by another program meanwhile" in result.output
    assert [file.name for file in target.iterdir()] == ["other"]
