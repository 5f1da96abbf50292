"""SAM as a teacher: from a picture and prompts in pixels to exact masks of the full picture.

A picture is encoded once for all of its prompts. The geometry is SAM's: the longest side is resized, and the rest is
padded at the right and the bottom.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide

from model.teachers import rle
from model.teachers.polygons import Region, inner_points
from model.teachers.precision import dtype_of
from model.teachers.sam_attention import fuse_attention
from model.teachers.sam_loading import open_sam

SamPrompt = Literal["box", "box_and_mask", "points"]
Rgb = npt.NDArray[np.uint8]  # (H, W, 3)

MASK_LOGIT = 6.0  # a polygon's mask is shown as logits of plus or minus this
STABILITY_OFFSET = 1.0  # of the thresholds of the logits, as in segment-anything's automatic masks
IGNORED = -1  # label of a point that is only there to make rows equally long


@dataclass(frozen=True)
class SamOptions:
    """Settings of SAM's encoder and of the choice of masks."""

    multimask: bool = False
    """Propose three masks per prompt and take the one with the best predicted IoU. Off: the one for clear prompts."""
    attention: Literal["package", "sdpa"] = "package"
    """Of the encoder: segment-anything's own, or torch's fused attention (`sam_attention`)."""
    compiled: bool = False
    """Compile the encoder. Each size of a batch is compiled by itself, so `encode_images` should see few."""


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
    stability: float
    """IoU of the masks at thresholds STABILITY_OFFSET above and below SAM's; 0 if nothing is above the lower one."""


class Resize(ResizeLongestSide):  # type: ignore[misc]
    """SAM's resizing that leaves at least one pixel of the shorter side, also of a picture of 2 x 5000."""

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Height and width inside SAM's square."""
        height, width = ResizeLongestSide.get_preprocess_shape(oldh, oldw, long_side_length)
        return max(height, 1), max(width, 1)


class SamTeacher:
    """A SAM that encodes a picture once and answers many prompts about it."""

    def __init__(
        self, sam: Sam, prompt: SamPrompt = "box", precision: str = "fp32", options: SamOptions | None = None
    ) -> None:
        self.sam = sam.eval()
        self.prompt, self.options = prompt, options or SamOptions()
        if self.options.attention == "sdpa":
            fuse_attention(sam.image_encoder)
        # dynamic=False: with shapes left open, the compiler's code is slower than the package's.
        self._encoder = torch.compile(sam.image_encoder, dynamic=False) if self.options.compiled else sam.image_encoder
        self._dtype = dtype_of(precision)
        self._transform = Resize(sam.image_encoder.img_size)

    @classmethod
    def load(
        cls,
        location: str,
        prompt: SamPrompt = "box",
        device: str = "cpu",
        precision: str = "fp32",
        options: SamOptions | None = None,
    ) -> Self:
        """Open a published checkpoint (.pth, or the same tensors as .safetensors), or a folder with config.json.

        Raises ConfigError if there is none, or if it is no SAM.
        """
        return cls(open_sam(Path(location)).to(device), prompt, precision, options)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self.sam.device
        return device

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Rgb], rows: int | None = None) -> list[ImageEmbedding]:
        """Encode pictures, uint8 (H, W, 3) of any sizes, as one batch.

        Args:
            rows: size of the batch; it is filled up with blank pictures. None: one row for each picture.
        """
        small = [self._transform.apply_image(image) for image in images]
        squares = [
            self.sam.preprocess(torch.as_tensor(picture, device=self.device).permute(2, 0, 1).float())
            for picture in small
        ]
        squares += [torch.zeros_like(squares[0])] * ((rows or 0) - len(squares))
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            features = self._encoder(torch.stack(squares))
        # Only the encoder is worth a short format; the masks' borders are decoded in full precision.
        return [
            ImageEmbedding(row[None].float(), resized.shape[:2], image.shape[:2])
            for row, resized, image in zip(features, small, images, strict=False)  # blank pictures have no image
        ]

    def encode_image(self, image: Rgb) -> ImageEmbedding:
        """Encode one picture, uint8 (H, W, 3)."""
        return self.encode_images([image])[0]

    @torch.inference_mode()
    def segment(self, embedding: ImageEmbedding, regions: Sequence[Region]) -> Iterator[Segment]:
        """The mask of each region, in order; the decoder sees all as one batch.

        Masks are enlarged one at a time: full pictures can be large.
        """
        sparse, dense = self.sam.prompt_encoder(**self._prompts(embedding, regions))
        proposed, quality = self.sam.mask_decoder(
            image_embeddings=embedding.features,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.options.multimask,
        )
        best = quality.argmax(dim=1)
        for logits, choice, expected in zip(proposed, best.tolist(), quality.amax(dim=1).tolist(), strict=True):
            chosen = logits[None, choice : choice + 1]
            full = self.sam.postprocess_masks(chosen, embedding.resized, embedding.original)[0]
            stability = float(calculate_stability_score(full, self.sam.mask_threshold, STABILITY_OFFSET))
            mask = (full[0] > self.sam.mask_threshold).cpu().numpy()
            yield Segment(rle.encode(mask), expected, 0.0 if math.isnan(stability) else stability)

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
