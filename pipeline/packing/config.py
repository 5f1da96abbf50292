"""Settings of the step `pack`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Config, added_later

Template = Literal["chat", "plain"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""The files of a backbone's folder that a pack is made with: the others, weights among them, change no pack."""


class PackConfig(Config):
    """Settings that turn records into training rows."""

    max_tokens: int = Field(default=2048, ge=16, description="longest row; longer conversations lose their last turns")
    shard_rows: int = Field(default=1024, ge=1, description="rows per shard")
    row_group_rows: int = Field(
        default=64, ge=1, description="rows per Parquet row group, the unit of reading; fewer where rows are large"
    )
    system_prompt: str | None = Field(default=None, description="system turn put before each conversation")
    template: Template = added_later(
        "chat",
        description="chat: the backbone's chat template; plain: the answer alone, for captions. "
        "Plain rejects records of several turns",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.template == "plain" and self.system_prompt is not None:
            raise ValueError("template = 'plain' has no place for a system_prompt; leave one of them out")
        return self
