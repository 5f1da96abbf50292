"""Asks a trained student: greedy answers in batches, with the attention of the questions' tokens.

Shapes: B questions, S cells, L cross-attention layers.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.agevlm.analysis import AgeVlm
from model.agevlm.chat_text import covered
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor


class Student:
    """A model and its processor, ready to be asked.

    Args:
        model: on the device to run on.
        max_new_tokens: longest answer, in tokens.
        system_prompt: the system turn that it was trained with: None for no system turn, '' for an empty one.

    Raises ValueError if the tokenizer cannot make batches, ValueError or jinja2's errors if its chat template does not
    work.
    """

    def __init__(
        self,
        model: AgeVlmForConditionalGeneration,
        processor: AgeVlmProcessor,
        max_new_tokens: int,
        system_prompt: str | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self._vlm = AgeVlm(model, processor, system_prompt)
        self._max_new_tokens = max_new_tokens
        self._vlm.encode("?")  # raises here, and not at the first question, if the template does not work

    def refusal(self, question: str) -> tuple[str, str] | None:
        """The reason to reject a question, as a name to count by and a message; None if it can be asked.

        'control_token': it has a token that starts or ends turns; 'template': the chat template changes its words (e.g.
        outer spaces). Packs reject records for the same reasons.
        """
        changed = "the chat template changes the words of this question"
        try:
            start, end = self._vlm.encode(question).message_spans[-1]
        except ValueError as error:
            forged = any(token and token in question for token in self.processor.control_tokens)
            return ("control_token", str(error)) if forged else ("template", f"{changed}: {error}")
        return None if end - start == len(question) else ("template", changed)

    def ask(
        self, pictures: Sequence[Image.Image], questions: Sequence[str]
    ) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Answers, attention maps (B, L, S) of the questions' tokens, and valid cells (B, S) of the pictures."""
        answers = self._vlm.answer(pictures, questions, max_new_tokens=self._max_new_tokens)
        seen = self._vlm.attention_maps(pictures, questions)
        maps = np.stack([each.maps.reshape(len(each.layers), -1) for each in seen])
        return answers, maps, np.stack([each.valid.reshape(-1) for each in seen])

    def encode(self, question: str) -> tuple[list[int], list[bool]]:
        """Tokens of the prompt, and a mask of those that are the question's text. A pack's row begins with the same.

        Only for questions without a `refusal`.
        """
        encoded = self._vlm.encode(question)
        return encoded.input_ids, covered(encoded.offsets, encoded.message_spans[-1:])
