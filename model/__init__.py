"""The model layer: AGE-VLM, its losses, the stage table, the teachers. Imports neither Ray nor Prefect."""
