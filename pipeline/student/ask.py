"""`python -m pipeline.student.ask CHECKPOINT IMAGE QUESTION`: the student's answer, and a map of its attention.

The question is cleaned as in the training data (no image tokens, no outer spaces) and asked as the evaluation asks, so
the printed answer is the one that the evaluation would score.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image, ImageDraw, ImageFont

from model.errors import AgevlmError, ArtifactError, ConfigError, DataError
from model.images import MAX_BYTES, decode_image
from pipeline.artifacts.paths import store_root
from pipeline.sources.conversation import clean
from pipeline.student.find import checkpoint_folder
from pipeline.student.png_file import check_png, save_png

if TYPE_CHECKING:
    from pipeline.evaluation.student import Student

STRIP = 46  # pixels of the legend below a map


@dataclass(frozen=True)
class Reply:
    """The student's answer to a question, and its attention.

    maps: (L, S), per cross-attention layer the attention of the question's tokens over the cells, each row sums to 1.
    valid: (S,) cells that hold image pixels.
    """

    answer: str
    maps: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]


def read_picture(path: Path) -> Image.Image:
    """The image file, upright and RGB. Raises DataError if it does not exist or is not an image."""
    if not os.path.isfile(path):
        raise DataError(f"image '{path}': no such file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"it has {size} bytes, more than {MAX_BYTES}")
        return decode_image(path.read_bytes())
    except (DataError, OSError) as error:
        raise DataError(f"image '{path}' cannot be used: {error}") from error


def open_student(folder: Path, max_new_tokens: int, system_prompt: str | None) -> "Student":
    """The student in a Hugging Face folder. Raises ArtifactError if it cannot be opened."""
    import jinja2
    import transformers

    from pipeline.evaluation.student import Student
    from pipeline.training.student import load_student

    transformers.logging.disable_progress_bar()
    try:
        model, processor = load_student(folder)
        return Student(model, processor, max_new_tokens, system_prompt)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, jinja2.TemplateError) as error:
        # Any folder may be given, and transformers hardly checks the content of its JSON files and templates.
        raise ArtifactError(
            f"the student in {folder} is damaged ({type(error).__name__}: {error}); copy it anew"
        ) from error


def read_question(text: str) -> str:
    """The question, cleaned as in the training data. Raises DataError if it is empty or not Unicode text."""
    question = clean(text)
    if not question:
        raise DataError("the question is empty; ask something, in quotes")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:  # bytes of the command line that are not UTF-8
        raise DataError(
            f"the question is not UTF-8 text ({printable(question)}); type it in a UTF-8 terminal"
        ) from error
    return question


def ask(student: "Student", picture: Image.Image, question: str) -> Reply:
    """Ask one question as `read_question` gives it. Raises DataError if it forges turns of the conversation."""
    refusal = student.refusal(question)
    if refusal is not None:
        raise DataError(f"the question cannot be asked: {refusal[1]}")
    answers, maps, valid = student.ask([picture], [question])
    return Reply(answers[0], maps[0], valid[0])


def printable(text: object) -> str:
    """Text for any terminal: characters that UTF-8 cannot encode, as in odd file names, become escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def draw_map(student: "Student", picture: Image.Image, question: str, reply: Reply, layer: int) -> Image.Image:
    """The picture under the attention of one cross-attention layer (counted from 0), with a legend below."""
    from pipeline.evaluation.overlay import STOPS, heat_over

    geometry = student.processor.image_processor.geometry(picture.height, picture.width)
    heat = heat_over(picture, reply.maps[layer], geometry, None)
    sheet = Image.new("RGB", (max(heat.width, 240), heat.height + STRIP), "white")
    sheet.paste(heat, ((sheet.width - heat.width) // 2, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    level, stops = np.linspace(0, 1, 90), np.linspace(0, 1, len(STOPS))
    ramp = np.stack([np.interp(level, stops, STOPS[:, c]) for c in range(3)], axis=-1)[None].repeat(9, axis=0)
    top = heat.height + 7
    sheet.paste(Image.fromarray(ramp.round().astype(np.uint8)), (26, top + 2))
    pen.text((8, top), "0", fill="black", font=font)
    pen.text((122, top), f"{100 * float(reply.maps[layer].max()):.1f} % per cell", fill="black", font=font)
    words = f"{layer_name(student, layer)}: {question}"
    while len(words) > 1 and pen.textlength(words, font=font) > sheet.width - 16:
        words = words[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    pen.text((8, top + 18), words, fill="black", font=font)
    return sheet


def layer_name(student: "Student", layer: int) -> str:
    """'layer 0 (position 2)': its number among the cross-attention layers, and its position in the expanded stack."""
    return f"layer {layer} (position {student.model.config.cross_attention_layers[layer]})"


def mass_lines(student: "Student", picture: Image.Image, reply: Reply) -> list[str]:
    """Per cross-attention layer: the concentration of the attention, its peak, and its share on padding."""
    geometry = student.processor.image_processor.geometry(picture.height, picture.width)
    lines = [f"{len(reply.maps)} cross-attention layers, {int(reply.valid.sum())} cells with image pixels"]
    for layer, share in enumerate(reply.maps.astype(np.float64)):
        tenth = np.sort(share)[::-1][: max(1, round(0.1 * int(reply.valid.sum())))].sum()
        row, column = divmod(int(share.argmax()), geometry.grid)
        stride = geometry.stride
        x = ((column + 0.5) * stride - geometry.left) / geometry.inner_width
        y = ((row + 0.5) * stride - geometry.top) / geometry.inner_height
        lines.append(
            f"{layer_name(student, layer)}: {100 * tenth:.0f} % on the tenth of the cells that gets most, peak at "
            f"{100 * min(max(x, 0), 1):.0f} % from left, {100 * min(max(y, 0), 1):.0f} % from top, "
            f"{100 * float(share[~reply.valid].sum()):.1f} % on padding"
        )
    return lines


def main(
    checkpoint: Annotated[
        str, typer.Argument(help="a Hugging Face folder, or the beginning of a checkpoint artifact's id")
    ],
    image: Annotated[Path, typer.Argument(help="an image file")],
    question: Annotated[str, typer.Argument(help="the question, in quotes")],
    map_file: Annotated[
        Path | None, typer.Option("--map", metavar="OUT.png", help="write the attention over the image to this PNG")
    ] = None,
    layer: Annotated[int, typer.Option(min=0, help="CA layer of the map, counted from 0 (the first)")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, tokens")] = 64,
    store: Annotated[str | None, typer.Option(help="artifact store: a path or URL (default: $AGEVLM_STORE)")] = None,
    mass: Annotated[bool, typer.Option("--mass", help="print where each layer's attention went")] = False,
) -> None:
    """Ask a trained student about an image."""
    try:
        question = read_question(question)
        picture = read_picture(image)
        folder, system_prompt = checkpoint_folder(checkpoint, store or store_root())
        if map_file is not None:
            check_png("--map", "map", map_file)
        student = open_student(folder, max_new_tokens, system_prompt)
        layers = len(student.model.config.cross_attention_layers)
        if layer >= layers:
            raise ConfigError(f"--layer {layer}: the student has layers 0 to {layers - 1}")
        reply = ask(student, picture, question)
        print(reply.answer or "(the student gave an empty answer)")
        if mass:
            print("\n".join(mass_lines(student, picture, reply)))
        if map_file is not None:
            save_png("--map", draw_map(student, picture, question, reply, layer), map_file)
            print(f"attention of {layer_name(student, layer)}: {printable(map_file)}")
    except AgevlmError as error:
        print(f"{type(error).__name__}: {printable(error)}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
