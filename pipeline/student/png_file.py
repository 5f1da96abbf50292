"""A PNG that an option of a command names: its place is checked before the long work, and its file written after."""

import os
from pathlib import Path

from PIL import Image

from model.errors import ConfigError


def check_png(option: str, picture: str, path: Path) -> None:
    """Make the folder of a PNG file. Raises ConfigError if that is not possible, or if the name is not that of a PNG.

    option: such as '--map'; picture: its name in messages, such as 'map'.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{option} {path}: the {picture} is a PNG; give a name that ends in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: its folder cannot be made ({error.strerror}); give another name"
        ) from error
    if os.path.isdir(path):
        raise ConfigError(f"{option} {path} is a folder; give the name of a file")


def save_png(option: str, picture: Image.Image, path: Path) -> None:
    """Write the file. Raises ConfigError if the file system refuses it."""
    try:
        picture.save(path, "PNG")
    except OSError as error:
        raise ConfigError(
            f"{option} {path} cannot be written ({error.strerror or error}); give another name"
        ) from error
