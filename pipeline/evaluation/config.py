"""Settings of the step `evaluate`."""

from typing import Literal

from pydantic import Field

from pipeline.config import Config

Benchmark = Literal["existence", "attention"]


class EvaluationConfig(Config):
    """The benchmarks that run on a trained student, and their settings."""

    benchmarks: tuple[Benchmark, ...] = Field(default=("existence", "attention"), min_length=1)
    max_new_tokens: int = Field(default=32, ge=1, description="largest number of tokens in an answer")
    batch: int = Field(default=16, ge=1, description="questions per batch")
    attention_examples: int = Field(default=8, ge=0, description="questions whose attention maps are saved as pictures")
