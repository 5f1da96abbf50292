"""The table of benchmarks. A new benchmark is one module and one row."""

from pipeline.evaluation.attention import AttentionInMask
from pipeline.evaluation.existence import Existence
from pipeline.evaluation.scores import Benchmark

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (Existence(), AttentionInMask())}
