"""Turns rows of the pack into the tensors of a micro-batch.

Shapes: B rows, T tokens of the longest row, S image cells, N rows with an image.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from model.agevlm.inputs import to_device
from model.errors import DataError
from pipeline.masks.cells import Entry
from pipeline.training.data.pack_reader import PackRow, Span
from pipeline.training.data.pictures import Normaliser, PreparedPictures

IGNORE = -100


class Guide(Protocol):
    """A source of masks (`CellTable`): all masks of a sample, sorted by turn; an empty list if it has none."""

    def lookup(self, sample_id: str) -> Sequence[Entry]: ...


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `guided` marks the rows that count in the guidance loss: all its conditions are checked here.

    Counts are those of this micro-batch. The trainer sums them over the global batch before it scales any loss.
    """

    input_ids: torch.Tensor  # (B, T)
    attention_mask: torch.Tensor  # (B, T)
    labels: torch.Tensor  # (B, T), -100 where a token is not a target
    pixels: torch.Tensor | None  # (N, H, W, 3) uint8
    normalise: Normaliser  # makes `pixel_values` of them
    cell_mask: torch.Tensor | None  # (B, S) bool
    has_image: torch.Tensor | None  # (B,) bool
    guidance_mask: torch.Tensor | None  # (B, S) bool
    query_mask: torch.Tensor | None  # (B, T) bool
    guided: torch.Tensor | None  # (B,) bool
    target_tokens: int
    guided_rows: int
    images: int
    tokens: int
    notes: Counter[str]  # masks that were left out of the guidance, by reason

    def to(self, device: torch.device) -> "Batch":
        """The batch with tokens and pixels on a device.

        Labels, masks and flags stay on the CPU, where the model reads their counts before it moves them: so the host
        never waits for the device.
        """
        return replace(
            self,
            input_ids=to_device(self.input_ids, device),
            pixels=None if self.pixels is None else to_device(self.pixels, device),
        )

    def pin_memory(self) -> "Batch":
        """The same batch in pinned memory, from which a GPU copies while it computes."""
        pinned: dict[str, Any] = {
            f.name: value.pin_memory() for f in fields(self) if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **pinned)

    def inputs(self) -> dict[str, torch.Tensor]:
        """The model's keyword arguments."""
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), torch.Tensor)}
        pixels = tensors.pop("pixels", None)
        return tensors if pixels is None else {**tensors, "pixel_values": self.normalise(pixels)}

    @property
    def pixel_values(self) -> torch.Tensor | None:
        """(N, 3, H, W) fp32, as the image processor makes them; computed each time, on the batch's device."""
        return None if self.pixels is None else self.normalise(self.pixels)


def query_tokens(row: PackRow, span: Span, char_start: int, char_end: int) -> npt.NDArray[np.bool_]:
    """(tokens,) True where a token covers characters [char_start, char_end) of a turn's text (question + ' ' + answer).

    Template tokens are never among them: they are outside the spans of question and answer in the conversation.
    """
    question = span.question_end - span.question_start
    inside = np.zeros(len(row.input_ids), dtype=bool)
    # The template moves question and answer apart, so each is mapped on its own: the overlap of the range with the
    # part, shifted from the part's start in the turn's text to its start in the rendered conversation.
    for first, length, place in (
        (0, question, span.question_start),
        (question + 1, span.answer_end - span.answer_start, span.answer_start),
    ):
        start = max(char_start, first) - first + place
        end = min(char_end, first + length) - first + place
        if start < end:
            inside |= (row.starts < end) & (row.ends > start) & (row.starts < row.ends)
    return inside


class Collator:
    """Makes a micro-batch from rows.

    Args:
        image_processor: the student's image processor (`AgeVlmProcessor.image_processor`).
        pad_id: token that fills short rows; masked out of attention and loss.
        guide: masks, if the stage has a guidance loss.
    """

    def __init__(
        self,
        image_processor: Any,
        pad_id: int,
        guide: Guide | None = None,
    ) -> None:
        self._prepared, self._normalise = PreparedPictures(image_processor), Normaliser.of(image_processor)
        self._pad, self._guide = pad_id, guide

    def __call__(self, rows: Sequence[PackRow]) -> Batch:
        """The batch of some rows; of no rows, a batch that counts nothing and still has a forward pass.

        Raises DataError, naming the row, if an image cannot be decoded.
        """
        if not rows:
            return replace(self([self._empty_row()]), tokens=0)
        size, longest = len(rows), max(len(row.input_ids) for row in rows)
        input_ids = torch.full((size, longest), self._pad, dtype=torch.long)
        attention_mask = torch.zeros(size, longest, dtype=torch.long)
        labels = torch.full((size, longest), IGNORE, dtype=torch.long)
        for b, row in enumerate(rows):
            ids = torch.from_numpy(row.input_ids)
            input_ids[b, : len(ids)] = ids
            attention_mask[b, : len(ids)] = 1
            labels[b, : len(ids)] = torch.where(torch.from_numpy(row.target), ids, IGNORE)
        pixels, cell_mask, has_image = self._images(rows)
        notes: Counter[str] = Counter()
        guidance = self._guidance(rows, cell_mask, longest, notes)
        return Batch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            pixels=pixels,
            normalise=self._normalise,
            cell_mask=cell_mask,
            has_image=has_image,
            guidance_mask=guidance[0] if guidance else None,
            query_mask=guidance[1] if guidance else None,
            guided=guidance[2] if guidance else None,
            # The model shifts the labels: the first token of a row is never a target.
            target_tokens=int((labels[:, 1:] != IGNORE).sum()),
            guided_rows=int(guidance[2].sum()) if guidance else 0,
            images=0 if pixels is None else len(pixels),
            tokens=int(attention_mask.sum()),
            notes=notes,
        )

    def _empty_row(self) -> PackRow:
        """A row of two tokens (labels are shifted by one) without image, targets and turns."""
        ids, none = np.full(2, self._pad, dtype=np.int64), np.zeros(2, dtype=np.int64)
        return PackRow("", None, ids, none.astype(bool), none, none, ())

    def _images(self, rows: Sequence[PackRow]) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        pictures, has_image = [], torch.zeros(len(rows), dtype=torch.bool)
        for b, row in enumerate(rows):
            if row.image is not None:
                try:
                    pictures.append(self._prepared(row.image))
                except DataError as error:
                    raise DataError(
                        f"pack row {row.sample_id}: its image cannot be decoded ({error}); make the inventory again"
                    ) from error
                has_image[b] = True
        if not pictures:
            return None, None, None
        pixels, cells = zip(*pictures, strict=True)
        cell_mask = torch.zeros(len(rows), len(cells[0]), dtype=torch.bool)
        cell_mask[has_image] = torch.stack(cells)
        return torch.stack(pixels), cell_mask, has_image

    def _guidance(
        self, rows: Sequence[PackRow], cell_mask: torch.Tensor | None, longest: int, notes: Counter[str]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Guidance mask (B, S), query mask (B, T) and guided rows (B,); None if no row is guided."""
        if self._guide is None or cell_mask is None:
            return None
        guidance_mask = torch.zeros_like(cell_mask)
        query_mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        guided = torch.zeros(len(rows), dtype=torch.bool)
        for b, row in enumerate(rows):
            if row.image is None:
                continue
            spans = {span.turn: span for span in row.spans}
            for turn in self._guide.lookup(row.sample_id):
                if guided[b]:
                    notes["further_turn"] += 1  # one guided turn a row: the mean of eq. 3 is over images
                    continue
                if turn.turn not in spans:
                    notes["turn_cut_off"] += 1
                    continue
                tokens = query_tokens(row, spans[turn.turn], turn.char_start, turn.char_end)
                cells = torch.from_numpy(turn.cells.reshape(-1)) & cell_mask[b]
                if not tokens.any():
                    notes["no_query_token"] += 1
                elif not cells.any():
                    notes["empty_mask"] += 1
                else:
                    guidance_mask[b], query_mask[b, : len(tokens)] = cells, torch.from_numpy(tokens)
                    guided[b] = True
        return (guidance_mask, query_mask, guided) if guided.any() else None
