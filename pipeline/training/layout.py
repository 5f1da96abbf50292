"""Names of what a checkpoint artifact holds. Light, so that whoever only reads one need not import the model."""

MODEL = "model"  # a Hugging Face folder: weights, configuration, tokenizer, processor
METRICS_FILE = "metrics.parquet"  # pipeline.training.metrics.METRICS
SPEED_FILE = "provenance/speed.parquet"  # pipeline.training.metrics.SPEED; no content: it differs at each making
STAGE_FILE = "stage.json"  # what was trained, on how much, and where it ended
