"""The tiny SAM: segment-anything's classes; the sizes are saved beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from model.errors import ConfigError, DataError


@dataclass(frozen=True)
class SamSizes:
    """The sizes of a Sam, saved as config.json. image_size and patch_size are in pixels, window_size in tokens."""

    image_size: int = 128
    patch_size: int = 8
    encoder_dim: int = 64
    encoder_depth: int = 3
    encoder_heads: int = 4
    global_attention: tuple[int, ...] = (1, 2)
    window_size: int = 8
    prompt_dim: int = 48
    mask_channels: int = 8
    decoder_depth: int = 2
    decoder_heads: int = 4
    decoder_mlp_dim: int = 128
    iou_head_dim: int = 64
    pixel_mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    pixel_std: tuple[float, float, float] = (127.5, 127.5, 127.5)


def build_sam(sizes: SamSizes) -> Sam:
    """A fresh Sam. Pixel mean and deviation come from `sizes`: segment-anything does not save them in a checkpoint."""
    grid = sizes.image_size // sizes.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            embed_dim=sizes.encoder_dim,
            depth=sizes.encoder_depth,
            num_heads=sizes.encoder_heads,
            mlp_ratio=4,
            out_chans=sizes.prompt_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes.window_size,
            global_attn_indexes=sizes.global_attention,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=sizes.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=sizes.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=sizes.decoder_depth,
                embedding_dim=sizes.prompt_dim,
                mlp_dim=sizes.decoder_mlp_dim,
                num_heads=sizes.decoder_heads,
            ),
            transformer_dim=sizes.prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=sizes.iou_head_dim,
        ),
        pixel_mean=list(sizes.pixel_mean),
        pixel_std=list(sizes.pixel_std),
    )


def save_sam(sam: Sam, sizes: SamSizes, folder: Path) -> None:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(sizes), indent=2) + "\n")
    state: dict[str, torch.Tensor] = {name: value.contiguous() for name, value in sam.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def load_sam(folder: Path) -> Sam:
    """Open what `save_sam` wrote, in evaluation mode.

    Raises DataError if a file is missing, ConfigError if config.json does not describe a Sam or the weights do not fit.
    """
    config, weights = folder / "config.json", folder / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise DataError(f"{path} is missing; make it with `python -m model.miniature.train sam`")
    try:
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(config.read_text()).items()
        }
        with torch.device("meta"):
            sam = build_sam(SamSizes(**fields))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config} does not hold the sizes of a Sam ({error}); write it anew") from error
    try:
        return fill(sam, load_file(weights)).eval()
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights} is damaged or belongs to another config.json: {error}") from error


def fill(sam: Sam, state: Mapping[str, torch.Tensor]) -> Sam:
    """Give a Sam that was built on torch's meta device these tensors, as float32. Such a Sam draws no random numbers.

    They are copied, since they can lie in a file that is mapped into memory, where another program can change them.
    Pixel mean and deviation are real already: the package makes them by a constructor that heeds no device.
    Raises RuntimeError if the tensors are not those of the Sam.
    """
    own = {
        name: tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    sam.load_state_dict(own, assign=True)
    return sam
