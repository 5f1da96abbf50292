"""SAM as a teacher: from a picture and prompts in pixels to exact masks of the full picture.

A picture is encoded once for all of its prompts. The geometry is SAM's: the longest side is resized, and the rest is
padded at the right and the bottom.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from model.errors import ConfigError
from model.miniature.sam import load_sam
from model.teachers import rle
from model.teachers.polygons import Region, inner_points
from model.teachers.precision import dtype_of

SamPrompt = Literal["box", "box_and_mask", "points"]
Rgb = npt.NDArray[np.uint8]  # (H, W, 3)

MASK_LOGIT = 6.0  # a polygon's mask is shown as logits of plus or minus this
PROMPTS_AT_ONCE = 64  # bounds the decoder's memory, not its results: prompts do not see each other
IGNORED = -1  # label of a point that is only there to make rows equally long
TYPES = {1280: "vit_h", 1024: "vit_l", 768: "vit_b"}  # width of the image encoder -> registry's name


@dataclass(frozen=True)
class ImageEmbedding:
    """One encoded picture."""

    features: torch.Tensor
    """(1, channels, grid, grid)"""
    resized: tuple[int, int]
    """Height and width inside SAM's square, pixels."""
    original: tuple[int, int]
    """Height and width of the picture, pixels."""


@dataclass(frozen=True)
class Segment:
    """SAM's answer to one prompt."""

    rle: str
    """Counts of the mask in the full picture."""
    iou: float
    """SAM's own prediction of the mask's IoU."""


class SamTeacher:
    """A SAM that encodes a picture once and answers many prompts about it."""

    def __init__(self, sam: Sam, prompt: SamPrompt = "box", precision: str = "fp32") -> None:
        self.sam = sam.eval()
        self.prompt = prompt
        self._dtype = dtype_of(precision)
        self._transform = ResizeLongestSide(sam.image_encoder.img_size)

    @classmethod
    def load(cls, location: str, prompt: SamPrompt = "box", device: str = "cpu", precision: str = "fp32") -> Self:
        """Open a published checkpoint (.pth, or the same tensors as .safetensors), or a folder with config.json.

        Raises ConfigError if there is none, or if it is no SAM.
        """
        path = Path(location)
        if path.is_dir():
            sam = load_sam(path)
        elif path.is_file():
            sam = open_checkpoint(path)
        else:
            raise ConfigError(f"SAM at {location}: no such file or folder; give a .pth file or a folder")
        return cls(sam.to(device), prompt, precision)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self.sam.device
        return device

    @torch.inference_mode()
    def encode_image(self, image: Rgb) -> ImageEmbedding:
        """Encode a picture, uint8 (H, W, 3)."""
        resized = self._transform.apply_image(image)
        pixels = torch.as_tensor(resized, device=self.device).permute(2, 0, 1)[None].float()
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            features = self.sam.image_encoder(self.sam.preprocess(pixels))
        # Only the encoder is worth a short format; the masks' borders are decoded in full precision.
        return ImageEmbedding(features.float(), resized.shape[:2], image.shape[:2])

    @torch.inference_mode()
    def segment(self, embedding: ImageEmbedding, regions: Sequence[Region]) -> Iterator[Segment]:
        """The mask of each region, in order. Masks are enlarged one at a time: full pictures can be large."""
        for start in range(0, len(regions), PROMPTS_AT_ONCE):
            group = regions[start : start + PROMPTS_AT_ONCE]
            sparse, dense = self.sam.prompt_encoder(**self._prompts(embedding, group))
            small, quality = self.sam.mask_decoder(
                image_embeddings=embedding.features,
                image_pe=self.sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,  # neither a box nor several points are ambiguous
            )
            for logits, expected in zip(small, quality[:, 0].tolist(), strict=True):
                full = self.sam.postprocess_masks(logits[None], embedding.resized, embedding.original)
                mask = (full[0, 0] > self.sam.mask_threshold).cpu().numpy()
                yield Segment(rle.encode(mask), expected)

    def _prompts(self, embedding: ImageEmbedding, regions: Sequence[Region]) -> dict[str, Any]:
        """Arguments of SAM's prompt encoder."""
        points = boxes = masks = None
        if self.prompt == "points":
            points = self._points(embedding, regions)
        else:
            pixels = np.array([region.box for region in regions])
            boxes = torch.as_tensor(
                self._transform.apply_boxes(pixels, embedding.original), dtype=torch.float, device=self.device
            )
        if self.prompt == "box_and_mask":
            masks = torch.stack([self._shown(embedding, region) for region in regions]).to(self.device)
        return {"points": points, "boxes": boxes, "masks": masks}

    def _points(self, embedding: ImageEmbedding, regions: Sequence[Region]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inner points (n, k, 2) of the regions and their labels (n, k)."""
        found = [inner_points(region) for region in regions]
        most = max(len(points) for points in found)
        coordinates = np.zeros((len(regions), most, 2))
        labels = np.full((len(regions), most), IGNORED, dtype=np.int64)
        for row, points in enumerate(found):
            coordinates[row, : len(points)] = self._transform.apply_coords(points, embedding.original)
            labels[row, : len(points)] = 1
        return (
            torch.as_tensor(coordinates, dtype=torch.float, device=self.device),
            torch.as_tensor(labels, device=self.device),
        )

    def _shown(self, embedding: ImageEmbedding, region: Region) -> torch.Tensor:
        """The region as a mask prompt: logits (1, h, w) at the size that SAM's prompt encoder takes."""
        height, width = self.sam.prompt_encoder.mask_input_size
        square = self.sam.image_encoder.img_size
        scale = np.array(
            [
                embedding.resized[1] / embedding.original[1] * width / square,
                embedding.resized[0] / embedding.original[0] * height / square,
            ]
        )
        small = Region(
            tuple(tuple((np.reshape(polygon, (-1, 2)) * scale).reshape(-1).tolist()) for polygon in region.polygons)
        )
        inside = torch.from_numpy(rle.decode(small.rle(height, width), height, width))
        return torch.where(inside, MASK_LOGIT, -MASK_LOGIT)[None]


def open_checkpoint(path: Path) -> Sam:
    """Build the SAM that a published checkpoint belongs to and fill it. Raises ConfigError.

    Never unpickles anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        sam = sam_model_registry[checkpoint_type(state)]()
        sam.load_state_dict(state)
    except ConfigError as error:
        raise ConfigError(f"SAM at {path}: {error}") from error
    except Exception as error:  # a damaged file makes torch.load raise errors of many types
        raise ConfigError(f"SAM at {path} cannot be opened: {type(error).__name__}: {error}") from error
    assert isinstance(sam, Sam)
    return sam


def checkpoint_type(state: Mapping[str, torch.Tensor]) -> str:
    """The name of the segment-anything model of a state dict, by the width of its encoder. Raises ConfigError."""
    position = state.get("image_encoder.pos_embed")
    if position is None:
        raise ConfigError("there is no tensor image_encoder.pos_embed; is it a checkpoint of segment-anything?")
    width = position.shape[-1]
    if width not in TYPES:
        raise ConfigError(f"an encoder of width {width} is none of {', '.join(TYPES.values())}; use a folder instead")
    return TYPES[width]
