"""The orientation of a picture: as PIL applies it where nothing is damaged, and also where PIL gives up."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from model.agevlm.upright import exif_orientation, orientation, upright_rgb
from tests.pipeline.sources.fixtures_odd_pictures import SMALL, exif_block, segment, with_segments
from tests.pipeline.sources.fixtures_pictures import encoded, halves

XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def by_exif(kind: str, turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(halves(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def by_xmp(kind: str, turn: int) -> bytes:
    text = XMP.format(turn)
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", text)
        return encoded(halves(), kind, pnginfo=info)
    if kind == "TIFF":
        return encoded(halves(), kind, tiffinfo={700: text.encode()})
    return encoded(halves(), kind, xmp=text.encode())


def by_profile(turn: int) -> bytes:
    """A PNG as ImageMagick writes it."""
    exif = Image.Exif()
    exif[0x0112] = turn
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n", zip=True)
    return encoded(halves(), "PNG", pnginfo=info)


FILES = {
    f"{name}, {turn}": (data, turn)
    for turn in range(10)
    for name, data in {
        **{f"{kind} by EXIF": by_exif(kind, turn) for kind in ("JPEG", "PNG", "WEBP", "TIFF")},
        **{f"{kind} by XMP": by_xmp(kind, turn) for kind in ("JPEG", "PNG", "WEBP", "TIFF")},
        "PNG by a profile": by_profile(turn),
    }.items()
}


@pytest.mark.parametrize("name", FILES)
def test_undamaged_files_are_turned_as_pil_turns_them(name: str) -> None:
    data, turn = FILES[name]
    image = opened(data)
    if image.format == "PNG":
        image.load()
    assert orientation(image) == (turn if 1 <= turn <= 8 else 1)
    upright = upright_rgb(image)
    assert np.array_equal(np.asarray(upright), np.asarray(ImageOps.exif_transpose(opened(data)).convert("RGB")))
    assert np.array_equal(np.asarray(upright_rgb(upright)), np.asarray(upright))  # a second time turns nothing


@pytest.mark.parametrize("order", "<>")
def test_an_orientation_beside_a_damaged_entry_is_applied(order: str) -> None:
    image = opened(with_segments(SMALL, segment(0xE1, exif_block(6, order))))
    assert orientation(image) == 6
    assert upright_rgb(image).size == (20, 40)


def test_exif_says_more_than_xmp_and_a_broken_profile_nothing() -> None:
    image = halves()
    image.info |= {"exif": exif_block(3), "xmp": XMP.format(6).encode()}
    assert orientation(image) == 3
    image.info["exif"] = b"Exif\0\0MM\0*"
    assert orientation(image) == 6
    image.info = {"Raw profile type exif": "\nexif\n9\nno digits\n"}
    assert orientation(image) == 1


def test_an_entry_that_holds_no_single_integer_means_upright() -> None:
    for kind, count in ((1, 1), (2, 1), (3, 2), (5, 1), (3, 0)):
        entry = struct.pack(">HHLHH", 0x0112, kind, count, 6, 0)
        exif = b"MM\0*" + struct.pack(">LH", 8, 1) + entry + bytes(4)
        assert exif_orientation(exif) == 0
        image = halves()
        image.info["exif"] = exif
        assert orientation(image) == 1


@given(st.binary(max_size=60), st.sampled_from([b"", b"MM\0*", b"II*\0", b"Exif\0\0MM\0*\0\0\0\x08"]))
def test_any_metadata_gives_an_orientation(block: bytes, start: bytes) -> None:
    for name in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image = halves(4, 2)
        image.info[name] = start + block
        assert 1 <= orientation(image) <= 8
        image.info[name] = (start + block).decode("latin-1")
        assert 1 <= orientation(image) <= 8
