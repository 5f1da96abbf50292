"""Where raw data comes from: each source turns files on disk into Cambrian-style records."""
