"""Load pretrained weights without missing ones, and change the precision of parameters only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn


def load_whole(kind: Any, source: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained(source, **options)`, but a weight that the checkpoint lacks is an error.

    transformers initialises such weights at random and only logs it: a teacher or student would silently be half
    untrained. Weights that the model does not have are ignored, as everywhere in transformers.

    Raises: ValueError naming the source and what is missing, misshapen or damaged; OSError if there is no checkpoint.
    """
    try:
        model, report = kind.from_pretrained(source, output_loading_info=True, **options)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"the weights in {source} are damaged or of another architecture: {error}") from error
    missing = sorted(report["missing_keys"])
    misshapen = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"])
    if missing or misshapen:
        raise ValueError(
            f"the weights in {source} do not fit {kind.__name__}: {len(missing)} are missing {missing[:3]}, "
            f"{len(misshapen)} have another shape {misshapen[:3]}; give the whole checkpoint of this architecture"
        )
    return model


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the precision of all parameters, as `from_pretrained(dtype=...)` does, and of no buffer.

    `model.to(dtype)` would round Llama's table of rotary frequencies, an error that grows with the position.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


__all__ = ["cast_parameters", "load_whole"]
