"""Florence-2 as a teacher: from a picture and a text to regions of the objects that the text mentions.

The tasks are Florence-2's <REFERRING_EXPRESSION_SEGMENTATION> and <CAPTION_TO_PHRASE_GROUNDING>. A prompt is built from
a template here instead of by the task token, so that a user's text cannot select another task. A picture is encoded
once for all of its texts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from transformers import AutoProcessor, Florence2ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.florence2.processing_florence2 import Florence2PostProcessor

from model.agevlm.loading import load_whole
from model.errors import ConfigError
from model.teachers.polygons import BINS, Region, regions
from model.teachers.precision import dtype_of
from model.teachers.tasks import TASKS, TaskName
from model.teachers.weights.identify import identify

LOCATIONS = re.compile(r"(?:<loc_\d+>)+")
SHORT = 300
"""Characters of a library's error that are shown: some list every tensor."""


@dataclass(frozen=True)
class FlorenceSettings:
    """Task, prompt and generation settings."""

    task: TaskName = "referring"
    prompt: str | None = None
    """Template; {query} stands for the text. None: the task's own."""
    max_new_tokens: int = 256
    """Fewer if the decoder has fewer positions."""
    beams: int = 1


@dataclass(frozen=True)
class Answer:
    """Florence-2's output for one query."""

    text: str
    """The generated tokens, with location and polygon marks."""
    score: float
    """Geometric mean probability of the generated tokens, the end mark among them."""
    ended: bool
    """False if the token budget cut it off before the end mark."""
    tokens: int
    """Generated tokens, with the end mark."""


class FlorenceTeacher:
    """A Florence-2 that encodes a picture once and answers many queries about it."""

    def __init__(self, model: Florence2ForConditionalGeneration, processor: Any, settings: FlorenceSettings) -> None:
        self.model = model.eval()
        self.settings = settings
        self._images, self._tokenizer = processor.image_processor, processor.tokenizer
        self._task = TASKS[settings.task]
        own: dict[str, Any] = getattr(processor, "post_processor_config", None) or {}  # words that are no phrases
        parsing = self._task.parser
        self._parser = Florence2PostProcessor({parsing: own.get(parsing) or {}}, self._tokenizer)
        self._marks = _marks(processor)

    @classmethod
    def load(cls, folder: Path, settings: FlorenceSettings, device: str = "cpu", precision: str = "fp32") -> Self:
        """Open a local folder that save_pretrained wrote. Raises ConfigError."""
        if not folder.is_dir():
            raise ConfigError(f"Florence-2 at {folder}: no such folder; give a folder that save_pretrained wrote")
        try:
            identify("florence", folder)
        except (ConfigError, OSError) as error:
            raise ConfigError(f"Florence-2 at {folder}: {error}") from error
        options = {"dtype": dtype_of(precision), "use_safetensors": True, "local_files_only": True}
        try:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model = load_whole(Florence2ForConditionalGeneration, folder, **options)
        except Exception as error:  # damaged files make the libraries raise errors of many types
            reason = f"{type(error).__name__}: {str(error)[:SHORT]}"
            raise ConfigError(f"Florence-2 at {folder} cannot be opened: {reason}") from error
        return cls(model.to(device), processor, settings)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self.model.device
        return device

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Encode RGB pictures once: (n, image tokens, width). Each is squashed to Florence-2's own square."""
        pixels = self._images(images=list(images), return_tensors="pt")["pixel_values"]
        seen = self.model.get_image_features(pixels.to(self.device, self.model.dtype)).pooler_output
        assert isinstance(seen, torch.Tensor)
        return seen

    def prompt(self, query: str) -> str:
        """The prompt of a query. A space inside special tokens and task names makes them plain text."""
        harmless = self._marks.sub(lambda found: f"{found[0][0]} {found[0][1:]}", query.strip())
        return (self.settings.prompt or self._task.prompt).replace("{query}", harmless)

    def fit(self, query: str, image_tokens: int) -> str:
        """The longest beginning of a query whose prompt has room behind the image tokens.

        Raises ValueError if not even one character has.
        """
        room = self.model.config.text_config.max_position_embeddings - image_tokens
        if len(self._ids(query)) <= room:
            return query
        low, high = 0, len(query)  # prompts of `low` characters fit, those of `high` do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(self._ids(query[:middle])) <= room else (low, middle)
        if low == 0:
            raise ValueError(f"the prompt has no room: {image_tokens} image tokens leave {room} for text")
        return query[:low]

    @torch.inference_mode()
    def ask(self, seen: torch.Tensor, queries: Sequence[str]) -> list[Answer]:
        """Answer one query for each encoded picture, (n, image tokens, width) from `encode_images`, as one batch.

        It ends when all answers have ended. Published checkpoints force the end mark as the last token of the budget;
        here it is not forced, because an answer that was cut off would look as if it had ended.
        """
        if len(seen) != len(queries):
            raise ValueError(f"{len(queries)} queries need as many pictures, got {len(seen)}")
        prompts = [self._ids(query) for query in queries]
        longest = max(len(ids) for ids in prompts)
        pad = self._tokenizer.pad_token_id  # always at the right: BART's positions are absolute
        ids = torch.tensor([p + [pad] * (longest - len(p)) for p in prompts], device=self.device)
        text_mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in prompts], device=self.device)
        embedded = self.model.get_input_embeddings()(ids)
        mask = torch.cat([text_mask.new_ones(seen.shape[:2]), text_mask], dim=1)
        encoder = self.model.get_encoder()
        hidden = encoder(
            inputs_embeds=torch.cat([seen.to(embedded.dtype), embedded], dim=1), attention_mask=mask
        ).last_hidden_state
        limit = min(self.settings.max_new_tokens, self.model.config.text_config.max_position_embeddings)
        sequences = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden.clone()),
            attention_mask=mask,
            num_beams=self.settings.beams,
            do_sample=False,
            max_new_tokens=limit,
            forced_eos_token_id=None,
        )
        scores = self._scores(hidden, mask, sequences)
        texts = self._tokenizer.batch_decode(sequences, skip_special_tokens=False)
        lengths = self._lengths(sequences)
        return [
            Answer(text, score, ended, tokens)
            for text, score, (tokens, ended) in zip(texts, scores, lengths, strict=True)
        ]

    def regions(self, answer: Answer, height: int, width: int) -> tuple[list[Region], int]:
        """All instances of an answer with all their polygons, in pixels of a height x width picture.

        The number is that of the polygons and boxes that were dropped because they have no area.
        """
        parsing = self._task.parser
        parsed = self._parser(text=answer.text, image_size=(BINS, BINS), parse_tasks=[parsing])[parsing]
        if not parsed:  # the parser passes over runs of fewer than four locations: points
            return [], len(LOCATIONS.findall(answer.text))
        return regions(self._task.shapes(parsed), height, width)

    def _ids(self, query: str) -> list[int]:
        """Token ids of a query's prompt, between begin and end marks as Florence-2's processor sets them."""
        tokenizer = self._tokenizer
        framed = f"{tokenizer.bos_token}{self.prompt(query)}{tokenizer.eos_token}"
        return list(tokenizer(framed, add_special_tokens=False)["input_ids"])

    def _scores(self, hidden: torch.Tensor, mask: torch.Tensor, sequences: torch.Tensor) -> list[float]:
        """Geometric mean probability of each sequence's tokens, from one forward pass over the generated sequences.

        Kept apart from the search: its step-wise scores would take (steps, rows x beams, vocabulary) of memory.
        """
        states = self.model.model.language_model.decoder(
            input_ids=sequences[:, :-1],
            encoder_hidden_states=hidden,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        scores = []
        for row, tokens, (stop, _) in zip(states, sequences[:, 1:], self._lengths(sequences), strict=True):
            start = 1 if stop > 1 and int(tokens[0]) == self._tokenizer.bos_token_id else 0  # a mark, no decision
            chances = self.model.lm_head(row[start:stop]).float().log_softmax(dim=-1)
            own = chances.gather(1, tokens[start:stop, None])
            scores.append(float(own.mean().exp()))
        return scores

    def _lengths(self, sequences: torch.Tensor) -> list[tuple[int, bool]]:
        """The number of tokens of each answer, its end mark among them, and True if it has one."""
        end, found = self._tokenizer.eos_token_id, []
        for tokens in sequences[:, 1:].tolist():  # the first is the decoder's start mark
            ended = end in tokens
            found.append((tokens.index(end) + 1 if ended else len(tokens), ended))
        return found


def _marks(processor: Any) -> re.Pattern[str]:
    """A pattern of all special tokens and task names, which Florence-2 would not read as plain words."""
    names = {token for token in processor.tokenizer.get_added_vocab() if len(token) > 1}
    names.update(processor.tokenizer.all_special_tokens)
    names.update(processor.tasks_answer_post_processing_type)
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
