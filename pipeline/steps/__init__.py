"""The steps: one row of `table.py` and one module each. Only the modules import Ray or torch, never the table."""
