"""Pictures in every form that transformers takes them, and errors that do not repeat their data."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from model.agevlm import pictures
from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.picture_parts import pictures_of_chats
from model.agevlm.pictures import opened, to_rgb
from model.agevlm.processing_agevlm import AgeVlmProcessor
from tests.model.agevlm.fixtures_word_tokenizer import word_tokenizer

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
PROCESSOR = AgeVlmProcessor(AgeVlmImageProcessor(64, 16), word_tokenizer())


def png(picture: Image.Image = PHOTO) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


TEXT = base64.b64encode(png()).decode()
URL = "data:image/png;base64," + TEXT
CHANNELS_FIRST = PIXELS.transpose(2, 0, 1)
PARTS: dict[str, dict[str, Any]] = {
    "PIL": {"image": PHOTO},
    "bytes": {"image": png()},
    "base64": {"base64": TEXT},
    "base64 as bytes": {"base64": TEXT.encode()},
    "base64 in lines": {"base64": base64.encodebytes(png()).decode()},
    "base64 of URLs, without padding": {"base64": base64.urlsafe_b64encode(png()).decode().rstrip("=")},
    "base64 as image": {"image": TEXT},
    "data URL": {"url": URL},
    "data URL as image": {"image": URL},
    "data URL as base64": {"base64": URL},
    "data URL with percent signs": {"url": "data:image/png," + quote_from_bytes(png())},
    "OpenAI": {"type": "image_url", "image_url": {"url": URL, "detail": "high"}},
    "OpenAI, short": {"type": "image_url", "image_url": URL},
    "array": {"image": PIXELS},
    "array, channels first": {"image": CHANNELS_FIRST},
    "tensor": {"image": torch.from_numpy(PIXELS)},
    "tensor, channels first": {"image": torch.from_numpy(CHANNELS_FIRST.copy())},
    "floats to 1": {"image": PIXELS.astype(np.float32) / 255},
    "floats to 255": {"image": PIXELS.astype(np.float64)},
    "half floats to 1": {"image": (PIXELS / 255).astype(np.float16)},
    "float tensor to 1, channels first": {"image": torch.from_numpy(CHANNELS_FIRST / 255)},
    "bfloat16 tensor": {"image": torch.from_numpy(PIXELS.copy()).bfloat16()},
    "tensor with a gradient": {"image": torch.from_numpy(PIXELS / 255).requires_grad_()},
    "wide integers": {"image": PIXELS.astype(np.int64)},
    "base64 as a bytearray": {"base64": bytearray(TEXT.encode())},
    "data URL in capitals": {"url": "DATA:image/png;BASE64," + TEXT},
    "data URL with escapes": {"url": "data:image/png;base64," + TEXT.replace("+", "%2B").replace("/", "%2F")},
    "a field that is None": {"image": None, "url": None, "base64": TEXT},
}


@pytest.mark.parametrize("form", list(PARTS))
def test_every_form_of_a_picture_is_the_same_picture(form: str) -> None:
    part = {"type": "image", **PARTS[form]}
    chat = [{"role": "user", "content": [part, {"type": "text", "text": "is it red"}]}]
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = PROCESSOR.apply_chat_template(chat, **how)
    expected = PROCESSOR.image_processor(PHOTO, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert torch.equal(inputs["cell_mask"], expected["cell_mask"])
    # The template never sees the picture.
    assert PROCESSOR.apply_chat_template(chat) == PROCESSOR.apply_chat_template(
        [{"role": "user", "content": "is it red"}]
    )


def test_paths_and_strings_are_opened_in_a_direct_call_too(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "p.png")
    expected = PROCESSOR(images=PHOTO, return_tensors="pt")["pixel_values"]
    for source in (tmp_path / "p.png", str(tmp_path / "p.png"), URL, TEXT):
        assert torch.equal(PROCESSOR(images=source, return_tensors="pt")["pixel_values"], expected)
        assert torch.equal(PROCESSOR.image_processor([source], return_tensors="pt")["pixel_values"], expected)
        part = {"type": "image", "path": source}
        assert np.array_equal(pictures_of_chats([[{"role": "user", "content": [part]}]])[0], PIXELS)


def test_a_network_url_goes_through_transformers_own_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(pictures, "load_image", lambda url: asked.append(url) or PHOTO)
    for part in ({"type": "image", "url": "https://x.org/p.png"}, {"type": "image_url", "image_url": "http://x.org/q"}):
        assert pictures_of_chats([[{"role": "user", "content": [part]}]])[0] is PHOTO
    assert asked == ["https://x.org/p.png", "http://x.org/q"]

    def offline(url: str) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pictures, "load_image", offline)
    with pytest.raises(ValueError, match=r"'https://x.org/p.png' cannot be fetched: ConnectionError"):
        opened("https://x.org/p.png")


def test_transparency_depth_and_rotation_survive_base64() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert opened(png(clear)).getpixel((0, 0)) == (255, 255, 255)
    grey16 = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert opened(base64.b64encode(png(grey16)).decode()).getpixel((0, 0)) == (128, 128, 128)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    assert opened(file.getvalue()).size == (4, 8)
    broken = file.getvalue().replace(b"Exif\x00\x00MM", b"Exif\x00\x00XX")
    assert opened(broken).convert("L").size == (8, 4)  # readable after the file is closed


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(5, 9), st.integers(5, 9), st.sampled_from([1, 3, 4]))),
    st.sampled_from([np.uint8, np.int32, np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_one_rule_for_channels_and_values(values: Any, kind: Any, scaled: bool, first: bool, tensor: bool) -> None:
    values[0, 0, 0] = 255  # floats up to 1 are taken as scaled: a picture with no value above 1 would be ambiguous
    expected = np.asarray(to_rgb(Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)))
    given_ = values.astype(kind)
    if scaled and given_.dtype.kind == "f":
        given_ = given_ / 255
    if first:
        given_ = given_.transpose(2, 0, 1)
    image = torch.from_numpy(np.ascontiguousarray(given_)) if tensor else given_
    assert np.array_equal(np.asarray(to_rgb(image)), expected)


@pytest.mark.parametrize(("value", "grey"), [(np.int64(1), 1), (np.uint8(1), 1), (np.float32(1), 255), (True, 255)])
def test_the_type_says_if_one_is_white(value: Any, grey: int) -> None:
    assert to_rgb(np.full((4, 4), value)).getpixel((0, 0)) == (grey, grey, grey)


def test_arrays_that_could_be_read_either_way() -> None:
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    last = np.asarray(to_rgb(cube))
    assert np.array_equal(last, cube)
    assert np.array_equal(np.asarray(to_rgb(torch.from_numpy(cube))), cube.transpose(1, 2, 0))  # torch's own order
    assert np.array_equal(np.asarray(to_rgb(cube, "channels_first")), cube.transpose(1, 2, 0))
    pixels = PROCESSOR(images=cube, images_kwargs={"input_data_format": "channels_first"})["pixel_values"]
    assert np.array_equal(pixels, PROCESSOR(images=cube.transpose(1, 2, 0))["pixel_values"])
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\)"):
        to_rgb(np.zeros((3, 8, 8), np.uint8), "channels_last")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 4, 2), np.uint8), r"uint8 of shape \(5, 4, 2\); give \(height, width\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((2, 2, 2, 2), np.uint8), r"shape \(2, 2, 2, 2\)"),
        (np.full((4, 4), 256), "from 256 to 256"),
        (np.full((4, 4, 3), 65535, np.uint16), "from 65535 to 65535"),
        (np.full((4, 4, 3), -0.5), "from -0.5 to -0.5.*before any normalisation"),
        (np.full((4, 4, 3), np.nan), "from nan to nan"),
        (np.zeros((4, 4, 3), np.complex64), "complex64"),
        (torch.randn(3, 8, 8), "before any normalisation"),
        (torch.zeros(3, 8, 8).to_sparse(), "image tensor is torch.float32, torch.sparse_coo"),
        (torch.zeros(3, 8, 8, device="meta"), "on meta"),
    ],
)
def test_arrays_that_are_no_picture(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_rgb(values)


LONG = "x" * 3_000_000
DAMAGED = base64.b64encode(png()[:200] + b"x" * 2_000_000).decode()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "base64": LONG},
        {"type": "image", "base64": LONG + "!"},
        {"type": "image", "base64": DAMAGED},
        {"type": "image", "image": LONG},
        {"type": "image", "image": "/" + LONG},
        {"type": "image", "path": LONG + "\x00"},
        {"type": "image", "url": "data:image/png;base64," + DAMAGED},
        {"type": "image", "url": "data:image/png;base64" + LONG},
        {"type": "image", "url": "data:image/svg+xml," + LONG},
        {"type": "image", "image": b"x" * 3_000_000},
        {"type": "image_url", "image_url": {"url": LONG}},
        {"type": "image", "pixels": LONG},
        {"type": "text", "txt": LONG},
        {"type": "video", "video": LONG},
        {"type": "image", "image": LONG, "url": LONG},
        {"type": "image", "image": PHOTO, "text": LONG},
        {"text": LONG},
        LONG,
    ],
)
def test_no_error_repeats_the_data(part: Any) -> None:
    forms: list[Any] = [
        [{"role": "user", "content": [part]}],
        [{"content": [part]}],
        [[part]],
        [{"role": "u", LONG: 1}],
    ]
    errors = [
        error
        for messages in forms
        for call in (
            lambda m: PROCESSOR.apply_chat_template(m, tokenize=True),
            lambda m: PROCESSOR.apply_chat_template([m, m], tokenize=True),
            PROCESSOR.encode_chat,
        )
        if (error := raised(call, messages)) is not None
    ]
    assert len(errors) >= 8
    assert {type(error) for error in errors} == {ValueError}
    assert max(len(str(error)) for error in errors) < 600


def raised(call: Callable[[Any], Any], argument: Any) -> Exception | None:
    try:
        call(argument)
    except Exception as error:
        return error
    return None


def test_no_error_repeats_a_long_option() -> None:
    for options in ({"size": LONG}, {"images_kwargs": {"input_data_format": LONG}}, {LONG: 1}):
        error = raised(lambda o: PROCESSOR(images=PHOTO, **o), options)
        assert isinstance(error, ValueError)
        assert len(str(error)) < 600


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"image": PHOTO, "url": URL}, "names image and url; give one of them"),
        ({"image": PHOTO, "text": "is it red"}, "holds text, which would be lost"),
    ],
)
def test_a_part_that_says_too_much_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PROCESSOR.apply_chat_template([{"role": "user", "content": [{"type": "image", **part}]}], tokenize=True)


def test_premultiplied_grey() -> None:
    assert to_rgb(Image.new("La", (4, 4), (255, 255))).getpixel((0, 0)) == (255, 255, 255)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"'photos/cat\.jpg' is no file, no URL and no picture as base64"):
        opened("photos/cat.jpg")


def test_pictures_beside_the_conversation_fill_its_places() -> None:
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it"}]}]
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    expected = PROCESSOR(images=PHOTO, return_tensors="pt")["pixel_values"]
    inputs = PROCESSOR.apply_chat_template(chat, **how, processor_kwargs={"images": [PHOTO]})
    assert torch.equal(inputs["pixel_values"], expected)
    for beside in (PHOTO, PIXELS, [[PHOTO]], (PHOTO,), TEXT):
        inputs = PROCESSOR.apply_chat_template(chat, **how, processor_kwargs={"images": beside})
        assert torch.equal(inputs["pixel_values"], expected)
    stacked = np.stack([PIXELS, PIXELS])
    for beside in ([[PHOTO], [PHOTO]], [PHOTO, PHOTO], stacked, torch.from_numpy(stacked)):
        both = PROCESSOR.apply_chat_template([chat, chat], **how, processor_kwargs={"images": beside})
        assert torch.equal(both["pixel_values"], expected.expand(2, -1, -1, -1))
    plain = [{"role": "user", "content": "is it"}]
    mixed = PROCESSOR.apply_chat_template([chat, plain], **how, processor_kwargs={"images": [PHOTO, None]})
    assert mixed["has_image"].tolist() == [True, False]
    twice = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]
    for wrong, beside, message in (
        ([chat], None, "names no picture"),
        ([chat, chat], [PHOTO, None], "names no picture"),
        ([chat, chat], [PHOTO], "1 images for 2 conversations"),
        ([twice], [PHOTO], "has 2 images"),
        ([chat], [], "images is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            PROCESSOR.apply_chat_template(wrong, **how, processor_kwargs={"images": beside})
    named = [{"role": "user", "content": [{"type": "image", "base64": TEXT}]}]
    with pytest.raises(ValueError, match="and another in processor_kwargs"):
        PROCESSOR.apply_chat_template(named, **how, processor_kwargs={"images": [PHOTO]})


@pytest.mark.parametrize("option", [{"do_normalize": False}, {"size": {"height": 8}}, {"do_rescale": False}])
def test_options_that_cannot_be_honoured_are_errors(option: dict[str, Any], tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    for call in (
        lambda: PROCESSOR.image_processor(PHOTO, **option),
        lambda: PROCESSOR(images=PHOTO, **option),
        lambda: PROCESSOR(images=PHOTO, images_kwargs=option),
        lambda: AgeVlmImageProcessor(64, 16, **option),
        lambda: AgeVlmImageProcessor.from_pretrained(tmp_path, **option),
    ):
        with pytest.raises(ValueError, match=f"'{next(iter(option))}' is .*cannot honour"):
            call()
    PROCESSOR(images=PHOTO, do_rescale=True, do_convert_rgb=True, data_format="channels_first", size=None)


def test_from_pretrained_checks_what_it_overrides(tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    for kind in (AgeVlmImageProcessor, AgeVlmProcessor):
        with pytest.raises(ValueError, match="image_size is 100 pixels; it must be a positive multiple of stride 16"):
            kind.from_pretrained(tmp_path, image_size=100)
        with pytest.raises(ValueError, match="letterbox is 'pad'"):
            kind.from_pretrained(tmp_path, letterbox="pad")
    larger = AgeVlmProcessor.from_pretrained(tmp_path, image_size=96, letterbox="squash")
    assert larger(images=PHOTO, return_tensors="pt")["pixel_values"].shape == (1, 3, 96, 96)
    assert "image_size" not in larger.tokenizer.init_kwargs
