"""Load a SAM from a published checkpoint or from a folder. Pickles are read with weights_only, never run."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from model.errors import AgevlmError, ConfigError
from model.miniature.sam import fill, load_sam
from model.teachers.weights.identify import identify
from model.teachers.weights.unwrap import unwrap

SHORT = 200
"""Characters of a library's error that are shown: some list every tensor."""


def open_sam(path: Path) -> Sam:
    """The SAM in a published checkpoint (.pth, or the same tensors as .safetensors), or in a folder with config.json.

    Its parameters are float32, whatever the file's type. Raises ConfigError if there is none, or if it is no SAM.
    """
    if not path.exists():
        raise ConfigError(f"SAM at {path}: no such file or folder; give a .pth file or a folder")
    try:
        found = identify("sam", path)
        return load_sam(path) if path.is_dir() else _open_file(path, found.name)
    except AgevlmError as error:
        raise ConfigError(f"SAM at {path}: {error}") from error
    except Exception as error:  # a damaged file makes torch.load raise errors of many types
        raise ConfigError(f"SAM at {path} cannot be opened: {type(error).__name__}: {str(error)[:SHORT]}") from error


def _open_file(path: Path, name: str) -> Sam:
    """Build the model of that name in segment-anything's registry and fill it."""
    if path.suffix == ".safetensors":
        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with torch.device("meta"):
        sam = sam_model_registry[name]()
    assert isinstance(sam, Sam)
    return fill(sam, unwrap(found, torch.Tensor)[0])
