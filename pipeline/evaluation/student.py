"""Asks a trained student: greedy answers in batches, and where its cross-attention looked while it read the question.

Shapes: B questions, T tokens, S cells, L cross-attention layers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from model.agevlm.chat_text import covered, find_messages, refuse_control_tokens
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor


class Student:
    """A model and its processor, ready to be asked.

    Args:
        model: on the device it is to run on.
        max_new_tokens: longest answer, tokens.
        system_prompt: the system turn that it was trained with, if any.
    """

    def __init__(
        self,
        model: AgeVlmForConditionalGeneration,
        processor: AgeVlmProcessor,
        max_new_tokens: int,
        system_prompt: str | None = None,
    ) -> None:
        self.model, self.processor = model.eval(), processor
        self._max_new_tokens = max_new_tokens
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._pad: int = processor.tokenizer.pad_token_id

    def refusal(self, question: str) -> str:
        """Why a question cannot be asked (it forges turns), or ''."""
        try:
            refuse_control_tokens(self._chat(question), self.processor.tokenizer.all_special_tokens)
        except ValueError as error:
            return str(error)
        return ""

    @torch.inference_mode()
    def ask(
        self, pictures: Sequence[Image.Image], questions: Sequence[str]
    ) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Answers, attention maps (B, L, S) of the questions' tokens, and valid cells (B, S) of the pictures."""
        inputs, query_mask = self._inputs(pictures, questions)
        out = self.model(
            **inputs,
            guidance_mask=torch.ones_like(inputs["cell_mask"]),
            query_mask=query_mask,
            logits_to_keep=1,
            use_cache=False,
        )
        maps_LBS = out.attention_maps
        if maps_LBS is None or maps_LBS.shape[1] != len(questions):
            raise AssertionError("every question has tokens and every picture cells, so each has a map")
        answers = self.model.generate(
            **inputs, max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1, pad_token_id=self._pad
        )
        said = self.processor.tokenizer.batch_decode(
            answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return (
            [text.strip() for text in said],
            maps_LBS.transpose(0, 1).float().cpu().numpy(),
            inputs["cell_mask"].cpu().numpy(),
        )

    def _chat(self, question: str) -> list[dict[str, str]]:
        return [*self._system, {"role": "user", "content": question}]

    def _inputs(
        self, pictures: Sequence[Image.Image], questions: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The model's inputs, padded on the left as generation needs it, and the questions' tokens."""
        encoded: list[tuple[list[int], list[bool]]] = [self._encode(question) for question in questions]
        longest = max(len(ids) for ids, _ in encoded)
        input_ids = torch.full((len(encoded), longest), self._pad, dtype=torch.long)
        attention_mask = torch.zeros(len(encoded), longest, dtype=torch.long)
        query_mask = torch.zeros(len(encoded), longest, dtype=torch.bool)
        for b, (ids, asked) in enumerate(encoded):
            input_ids[b, longest - len(ids) :] = torch.tensor(ids)
            attention_mask[b, longest - len(ids) :] = 1
            query_mask[b, longest - len(ids) :] = torch.tensor(asked)
        images: Any = self.processor.image_processor(list(pictures), return_tensors="pt")
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pixel_values": images["pixel_values"],
            "cell_mask": images["cell_mask"].bool(),
            "has_image": torch.ones(len(encoded), dtype=torch.bool),
        }
        device = self.model.device
        return {name: value.to(device) for name, value in inputs.items()}, query_mask.to(device)

    def _encode(self, question: str) -> tuple[list[int], list[bool]]:
        """Tokens of the prompt, and which of them are the question's text."""
        chat = self._chat(question)
        text = self.processor.render(chat, add_generation_prompt=True)
        encoded = self.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans, _ = find_messages(text, chat)
        asked = covered([(int(a), int(b)) for a, b in encoded["offset_mapping"]], [spans[-1]])
        return list(encoded["input_ids"]), asked
