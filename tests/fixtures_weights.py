"""Small folders of weights that every check of weights accepts, and other weights in the same folder."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.miniature.weights import weights_dir

TEACHERS = {"florence": "florence2", "sam": "sam"}
"""Role -> folder of the shipped weights. The weights of other roles are not looked at, beyond being safetensors."""


def write_weights(folder: Path, role: str) -> Path:
    """Make a folder with the weights of a role, and for 'text' with a tokenizer.json."""
    if role in TEACHERS:
        shutil.copytree(weights_dir() / TEACHERS[role], folder)
    else:
        folder.mkdir(parents=True)
        save_file({role: torch.zeros(3)}, folder / "model.safetensors")
    if role == "text":
        (folder / "tokenizer.json").write_text("{}")
    return folder


def change_weights(folder: Path) -> None:
    """Add one to every number of the first tensor."""
    state = load_file(folder / "model.safetensors")
    name = sorted(state)[0]
    save_file({**state, name: state[name] + 1}, folder / "model.safetensors")
