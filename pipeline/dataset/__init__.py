"""Artifacts as data sets for others: a folder with Parquet files and a card that Hugging Face's `datasets` reads."""
