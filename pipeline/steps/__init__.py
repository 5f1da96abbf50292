"""The steps, one module each, and the runner that executes any of them. Their table is pipeline/plan/step_table.py."""
