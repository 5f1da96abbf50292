"""The model layer: AGE-VLM, its loss, the stage table, the teachers, preprocessing. Plain PyTorch, no Ray, no Prefect."""
