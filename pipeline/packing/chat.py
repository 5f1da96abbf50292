"""The backbone's chat format without transformers and torch: `tokenizer.json` and the chat template.

`transformers.AutoTokenizer` would import torch (seconds, and half a gigabyte in each worker). A test checks that this
module renders and tokenizes exactly as transformers does.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from tokenizers import Tokenizer

from model.agevlm.chat_templates import TEMPLATE_DAY, template_for
from model.agevlm.chat_text import Span, chat_frame, place_targets, place_words
from model.errors import ConfigError, DataError
from pipeline.sources.records import Turn

ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    text: str
    questions: tuple[Span, ...]
    answers: tuple[Span, ...]
    targets: tuple[Span, ...]
    """The text that the assistant writes: each answer with its end-of-turn token."""
    ends: tuple[int, ...]
    """The end of each turn in the text."""


class TextFormat(ABC):
    """A backbone's tokenizer, and a way to write a conversation as text."""

    def __init__(self, folder: Path) -> None:
        """Open the folder of a backbone. Raises ConfigError if it has no fast tokenizer."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"weights.text: {folder} has no tokenizer.json; save its fast tokenizer there")
        try:
            self.tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"weights.text: {file} is not a tokenizer: {error}") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.names = _special_names(folder)
        """The special tokens by name: bos_token, eos_token and so on."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        special = [re.escape(token.content) for token in added if token.special]
        self._control = re.compile("|".join(special)) if special else None

    def control_token(self, text: str) -> str | None:
        """A token that starts or ends turns and that the text contains; None if it has none."""
        found = self._control.search(text) if self._control else None
        return found[0] if found else None

    @abstractmethod
    def render(self, turns: Sequence[Turn]) -> Rendered:
        """A conversation as text. Raises DataError if it cannot be written."""


class ChatFormat(TextFormat):
    """The backbone's chat template."""

    def __init__(self, folder: Path, system_prompt: str | None = None) -> None:
        """Open the folder of a backbone. Raises ConfigError if it has no fast tokenizer or a broken template."""
        super().__init__(folder)
        self._system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self._template = self._compile(folder)
        self._frames: dict[int, tuple[str, ...]] = {}

    def _compile(self, folder: Path) -> jinja2.Template:
        source = _chat_template(folder)
        view = SimpleNamespace(chat_template=source, get_vocab=self.tokenizer.get_vocab)
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = TEMPLATE_DAY.strftime
        try:
            return environment.from_string(template_for(view))
        except jinja2.TemplateError as error:
            raise ConfigError(f"weights.text: the chat template in {folder} is broken: {error}") from error

    def text(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False) -> str:
        """The chat as the text that is tokenized. Raises ConfigError if the template raises an error."""
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **self.names
            )
        except jinja2.TemplateError as error:
            raise ConfigError(f"weights.text: the chat template refuses the conversation: {error}") from error

    def render(self, turns: Sequence[Turn]) -> Rendered:
        """Render a conversation. Positions follow from the template's literals; the text is not searched for words.

        Raises DataError if the template changes the words of a message.
        """
        frame = self._frame(len(turns))
        words = [part for turn in turns for part in (turn.question, turn.answer)]
        text = self.text(self._messages(words))
        try:
            spans = place_words(text, frame, words, trimmed=False)
        except ValueError as error:
            raise DataError("the chat template changes the words of this conversation") from error
        closing = frame[-1].rstrip()  # the last end-of-turn token, which the assistant must learn to write
        targets = place_targets(frame, spans, range(1, len(words), 2), closing)
        return Rendered(text, tuple(spans[::2]), tuple(spans[1::2]), tuple(targets), tuple(end for _, end in targets))

    def _messages(self, words: Sequence[str]) -> list[dict[str, str]]:
        return self._system + [{"role": ROLES[n % 2], "content": word} for n, word in enumerate(words)]

    def _frame(self, turns: int) -> tuple[str, ...]:
        """The template's literals before, between and after the messages of so many turns: 2 * turns + 1."""
        if turns not in self._frames:
            try:
                self._frames[turns] = chat_frame(lambda marked: self.text(self._system + marked), ROLES * turns)
            except ValueError as error:
                raise ConfigError(f"weights.text: {error}") from error
        return self._frames[turns]


class _Generation(jinja2.ext.Extension):
    """Transformers' `{% generation %}` block, which only marks text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"weights.text: {path} is not JSON: {error}") from error


def _special_names(folder: Path) -> dict[str, str]:
    """The special tokens that a template may name: bos_token, eos_token and so on."""
    named = {**_read(folder / "special_tokens_map.json"), **_read(folder / "tokenizer_config.json")}
    values = {name: value["content"] if isinstance(value, dict) else value for name, value in named.items()}
    return {name: value for name, value in values.items() if name.endswith("_token") and isinstance(value, str)}


def _chat_template(folder: Path) -> str | None:
    """The folder's chat template: from chat_template.jinja, else from the tokenizer's configuration."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _read(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None
