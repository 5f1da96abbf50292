"""Settings of the step `pack`."""

from pydantic import Field

from pipeline.config import Config


class PackConfig(Config):
    """Settings that turn records into training rows."""

    max_tokens: int = Field(default=2048, ge=16, description="longest row; longer conversations lose their last turns")
    shard_rows: int = Field(default=1024, ge=1, description="rows per shard")
    row_group_rows: int = Field(default=64, ge=1, description="rows per Parquet row group: the unit of reading")
    system_prompt: str | None = Field(default=None, description="system turn put before each conversation")
