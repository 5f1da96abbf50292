"""`python -m pipeline.student.ask` with a student of random weights: output, attention map and error messages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from model.errors import ConfigError
from model.miniature.world import make_scene, render
from pipeline.student import ask
from pipeline.student.png_file import save_png
from tests.pipeline.student.test_find import publish

QUESTION = "Is there a red circle in the image?"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scene.jpg"
    Image.fromarray(render(make_scene(3))[0]).save(path)
    return path


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(ask.main)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_answers_and_prints_where_it_looked(model_folder: Path, picture: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "map.png"
    result = run(model_folder, picture, QUESTION, "--map", target, "--mass", "--max-new-tokens", "4")
    assert result.exit_code == 0, result.output
    assert "2 cross-attention layers" in result.output
    assert re.search(r"layer 1 \(position 3\): \d+ % on the tenth", result.output)
    with Image.open(target) as drawn:
        assert drawn.format == "PNG"
        colours = np.asarray(drawn.convert("RGB"))
    assert colours[: -ask.STRIP].std() > 5
    assert (colours[-1] == 255).all()


def test_the_maps_of_two_layers_differ_and_are_distributions(model_folder: Path, picture: Path) -> None:
    student = ask.open_student(model_folder, 4, None)
    image = ask.read_picture(picture)
    reply = ask.ask(student, image, QUESTION)
    assert reply.maps.shape == (2, 16)
    np.testing.assert_allclose(reply.maps.sum(1), 1, rtol=1e-5)
    first, second = (ask.draw_map(student, image, QUESTION, reply, layer) for layer in (0, 1))
    assert first.size == second.size
    assert np.asarray(first).tobytes() != np.asarray(second).tobytes()


def test_an_id_in_the_store_is_asked(
    model_folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(str(tmp_path / "store"), "checkpoint", model_folder)
    result = run(artifact.ref.id[:12], picture, QUESTION, "--store", tmp_path / "store", "--max-new-tokens", "2")
    assert result.exit_code == 0, result.output
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path / "store"))
    assert run(artifact.ref.id[:12], picture, QUESTION, "--max-new-tokens", "2").output == result.output


def refusal(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def test_bad_images_are_refused_by_name(model_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    assert "not_there.jpg': no such file" in refusal(run(model_folder, tmp_path / "not_there.jpg", QUESTION))
    assert "text.png' cannot be used" in refusal(run(model_folder, text, QUESTION))


def test_bad_checkpoints_are_refused_by_name(picture: Path, tmp_path: Path) -> None:
    assert "no such folder" in refusal(run("some/folder", picture, QUESTION))
    assert "no artifact's id starts with 'abcdef'" in refusal(run("abcdef", picture, QUESTION, "--store", tmp_path))


def test_bad_questions_and_options_are_refused(model_folder: Path, picture: Path, tmp_path: Path) -> None:
    assert "question is empty" in refusal(run(model_folder, picture, "  "))
    assert "ends in .png" in refusal(run(model_folder, picture, QUESTION, "--map", tmp_path / "map.jpg"))
    assert "layers 0 to 1" in refusal(run(model_folder, picture, QUESTION, "--layer", "7", "--max-new-tokens", "1"))
    special = ask.open_student(model_folder, 1, None).processor.tokenizer.eos_token
    assert "cannot be asked" in refusal(run(model_folder, picture, f"Yes? {special} Sure."))


def test_the_question_is_cleaned_as_the_sources_clean_theirs(model_folder: Path, picture: Path) -> None:
    said = [
        run(model_folder, picture, text, "--mass", "--max-new-tokens", "3").output
        for text in (QUESTION, f"  <image>\n{QUESTION} ", f"{QUESTION}<ima<image>ge>")
    ]
    assert said[0] == said[1] == said[2]
    assert "question is empty" in refusal(run(model_folder, picture, " <image> "))


def test_names_and_words_that_are_not_utf8_give_a_message(model_folder: Path, picture: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff")
    assert "the question is not UTF-8 text (What is \\udcff?)" in refusal(run(model_folder, picture, f"What is {odd}?"))
    assert "\\udcff.png': no such file" in refusal(run(model_folder, tmp_path / f"{odd}.png", QUESTION))
    assert "no such folder" in refusal(run(f"{odd}/a", picture, QUESTION))
    shutil.copy(picture, tmp_path / f"{odd}.jpg")
    arguments = (QUESTION, "--map", tmp_path / f"{odd}.png", "--max-new-tokens", "1")
    result = run(model_folder, tmp_path / f"{odd}.jpg", *arguments)
    assert result.exit_code == 0, result.output
    assert "\\udcff.png" in result.output
    command = [sys.executable, "-m", "pipeline.student.ask", os.fsencode(model_folder), os.fsencode(picture), b"\xff"]
    told = subprocess.run(command, capture_output=True, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith(b"DataError: the question is not UTF-8 text")


def test_a_name_that_is_too_long_is_no_file(model_folder: Path, picture: Path) -> None:
    assert "no such file" in refusal(run(model_folder, "x" * 5000, QUESTION))
    assert "no such folder" in refusal(run("x" * 5000 + "/", picture, QUESTION))


def test_a_map_that_cannot_be_written_is_refused_before_the_question_is_asked(
    model_folder: Path, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for name, expected in (("file/a.png", "its folder cannot be made"), ("folder.png", "is a folder")):
        said = refusal(run(model_folder, picture, QUESTION, "--map", tmp_path / name))
        assert expected in said
        assert name in said
        assert said.count("\n") == 1
    with pytest.raises(ConfigError, match="cannot be written"):
        save_png("--map", Image.new("RGB", (8, 8)), tmp_path / "gone" / "a.png")


def damage(folder: Path, file: str, content: bytes | None) -> None:
    """Half of the file if there is no content to put there."""
    path = folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("tokenizer.json", None),
        ("tokenizer.json", b"[]"),
        ("tokenizer_config.json", b"{}"),
        ("config.json", None),
        ("config.json", b"[]"),
        ("processor_config.json", b"[]"),
        ("chat_template.jinja", b"{% for %}"),
        ("chat_template.jinja", b"{{ raise_exception('no') }}"),
        ("chat_template.jinja", b"hello"),
    ],
)
def test_a_damaged_student_is_refused_by_name(
    model_folder: Path, picture: Path, tmp_path: Path, file: str, content: bytes | None
) -> None:
    folder = tmp_path / "student"
    shutil.copytree(model_folder, folder)
    damage(folder, file, content)
    said = refusal(run(folder, picture, QUESTION))
    assert said.startswith(("ArtifactError: ", "ConfigError: ", "DataError: "))
