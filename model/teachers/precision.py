"""Names of number formats, as recipes write them."""

from typing import Final

import torch

from model.errors import ConfigError

DTYPES: Final[dict[str, torch.dtype]] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str) -> torch.dtype:
    """The torch type of 'fp32', 'bf16' or 'fp16'. Raises ConfigError for another name."""
    try:
        return DTYPES[precision]
    except KeyError:
        raise ConfigError(f"precision = '{precision}': choose one of {', '.join(DTYPES)}") from None
