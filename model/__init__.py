"""The model layer: AGE-VLM, its loss, the stage table, the teachers, preprocessing. Never Ray, never Prefect."""
