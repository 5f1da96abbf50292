"""Tensors inside the usual wrappers: {'model': state}, {'state_dict': state}, and prefixes such as 'module.'."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from model.errors import ConfigError

Item = TypeVar("Item")
WRAPPERS = ("model", "state_dict", "model_state_dict")
PREFIX = re.compile(r"(?:module|_orig_mod|sam|sam_model|model)\.")
"""Prefixes that DataParallel, torch.compile, and models that hold a SAM put before each name."""
PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
"""The parts of a SAM, and so the beginnings of its names."""


def unwrap(found: Any, kind: type[Item]) -> tuple[dict[str, Item], str | None, int]:
    """The tensors of a checkpoint by name, the wrapper's key, and the length of the prefix that all names had.

    Args:
        found: an unpickled checkpoint.
        kind: the type of its tensors, or of what stands for them.

    Raises ConfigError if it holds none.
    """
    for key in (None, *WRAPPERS):
        state = found if key is None else found.get(key)
        tensors = {n: t for n, t in state.items() if isinstance(n, str) and isinstance(t, kind)} if _is(state) else {}
        if tensors:
            skipped = prefix_of(tensors)
            return {name[skipped:]: tensor for name, tensor in tensors.items()}, key, skipped
        if not _is(found):
            break
    raise ConfigError("it is a pickle that holds no tensors by name")


def prefix_of(names: Mapping[str, Any]) -> int:
    """Characters of the prefix that all names of a wrapped SAM have; 0 if they have none, or are another model's."""
    first, length = next(iter(names), ""), 0
    while found := PREFIX.match(first, length):
        length = found.end()
    wrapped = all(name.startswith(first[:length]) and name.startswith(PARTS, length) for name in names)
    return length if wrapped else 0


def _is(value: Any) -> bool:
    return isinstance(value, Mapping)
