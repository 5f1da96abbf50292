"""Sources of raw data: each turns files on disk into Cambrian-style records."""
