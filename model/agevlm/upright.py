"""Convert any picture that PIL has opened to upright 8-bit RGB, in the same way for every part of the project.

Only PIL and numpy: steps without a model open pictures too (model.images).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # PIL opens a 16-bit grey as one of these, by file and version


def upright_rgb(image: Image.Image) -> Image.Image:
    """EXIF rotation applied, the present frame, 16-bit greys divided by 257, transparency shown on white.

    Raises: ValueError for pixels with no agreed white: floating ones, and integers beyond 16 bits.
    """
    image = _rotated(image)
    if image.mode in DEEP_MODES:
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"mode {image.mode} has values beyond 16 bits; scale the picture to 8 bits first")
        # An 8-bit value v is v * 257 in 16 bits, so that white stays white: 255 * 257 = 65535. Rounded to the nearest.
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("mode F has floating-point pixels with no agreed white; scale the picture to 8 bits first")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "La":  # premultiplied grey, which PIL converts to this alone
        image = image.convert("LA")
    if image.has_transparency_data:
        # Hidden pixels hold arbitrary colours: dropping alpha would show what no viewer shows.
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        canvas.alpha_composite(layer)
        return canvas.convert("RGB")
    return image.convert("RGB")


def _rotated(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; metadata that cannot be read is ignored, as in a browser."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block raises struct, Syntax, Key and other errors; the pixels are fine
        return image


__all__ = ["upright_rgb"]
