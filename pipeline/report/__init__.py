"""The report: one self-contained HTML page about a run, made from the run's artifacts alone."""
