"""Asks a trained student: greedy answers in batches, and where its cross-attention looked while it read the question.

Shapes: B questions, T tokens, S cells, L cross-attention layers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from model.agevlm.chat_text import covered, refuse_control_tokens
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor

MARK = "\ue000question\ue001"  # private-use characters: in no template


class Student:
    """A model and its processor, ready to be asked.

    Args:
        model: on the device it is to run on.
        max_new_tokens: longest answer, tokens.
        system_prompt: the system turn that it was trained with: None for none at all, '' for an empty one.

    Raises ValueError if the tokenizer lacks what batches need.
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
        self._system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        tokenizer = processor.tokenizer
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer names neither a padding token nor an end token")
        self._pad: int = tokenizer.pad_token_id
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._control_tokens = list(dict.fromkeys([*tokenizer.all_special_tokens, *special]))
        # What stands before the question is the same for each, so it is known without searching for the question.
        self._head = self._render(MARK).partition(MARK)[0]

    def refusal(self, question: str) -> tuple[str, str] | None:
        """Why a question cannot be asked, as a name to count by and in words; None if it can.

        'control_token': it would forge turns; 'template': the chat template changes its words (outer spaces, for one).
        A pack names what it rejects in the same way.
        """
        try:
            refuse_control_tokens([{"role": "user", "content": question}], self._control_tokens)
        except ValueError as error:
            return "control_token", str(error)
        if not self._render(question).startswith(self._head + question):
            return "template", "the chat template changes the words of this question"
        return None

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

    def encode(self, question: str) -> tuple[list[int], list[bool]]:
        """Tokens of the prompt, and which of them are the question's text: the beginning of what a pack would hold.

        The question must not be one that `refusal` names.
        """
        text = self._render(question)
        encoded = self.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        span = (len(self._head), len(self._head) + len(question))
        asked = covered([(int(a), int(b)) for a, b in encoded["offset_mapping"]], [span])
        return list(encoded["input_ids"]), asked

    def _render(self, question: str) -> str:
        chat = [*self._system, {"role": "user", "content": question}]
        return self.processor.render(chat, add_generation_prompt=True)

    def _inputs(
        self, pictures: Sequence[Image.Image], questions: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The model's inputs, padded on the left as generation needs it, and the questions' tokens."""
        encoded: list[tuple[list[int], list[bool]]] = [self.encode(question) for question in questions]
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
