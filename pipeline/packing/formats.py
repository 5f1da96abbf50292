"""The two ways in which a pack writes a conversation: the backbone's chat template, and plain captions."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from model.errors import ConfigError
from pipeline.compute.hub import local_folder
from pipeline.packing.chat import ChatFormat, Rendered, TextFormat
from pipeline.packing.config import TOKENIZER_FILES, Template
from pipeline.sources.records import Turn


class PlainFormat(TextFormat):
    """LLaVA's and Cambrian's plain template for captions: the answer alone, between begin and end of text.

    The instruction ("Describe the image.") is left out. The assistant says the caption and the end-of-text token, so
    both are targets. The begin-of-text token is written if the tokenizer has one; nobody says it.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder of a backbone. Raises ConfigError if its tokenizer has no end-of-text token."""
        super().__init__(folder)
        self._begin, self._end = self.names.get("bos_token", ""), self.names.get("eos_token", "")
        if not self._end or self.tokenizer.token_to_id(self._end) is None:
            raise ConfigError(
                f"pack.template = 'plain' needs an end-of-text token, but {folder} names none that its tokenizer has; "
                "set 'eos_token' in its tokenizer_config.json, or use pack.template = 'chat'"
            )

    def render(self, turns: Sequence[Turn]) -> Rendered:
        """A record of one turn as its caption."""
        (turn,) = turns
        start = len(self._begin)
        end = start + len(turn.answer)
        closed = end + len(self._end)
        # The question is not in the text. Its span lies before the text and keeps its length (see pipeline.schemas).
        question = (-1 - len(turn.question), -1)
        text = f"{self._begin}{turn.answer}{self._end}"
        return Rendered(text, (question,), ((start, end),), ((start, closed),), (closed,))


@lru_cache(maxsize=4)
def open_format(weights: str, template: Template = "chat", system_prompt: str | None = None) -> TextFormat:
    """A format of a backbone (a folder, or a hub's name), opened once per process. Raises ConfigError."""
    folder = local_folder("text", weights, TOKENIZER_FILES)
    return PlainFormat(folder) if template == "plain" else ChatFormat(folder, system_prompt)
