"""The pipeline layer: recipes, plans, artifacts and the steps that a Ray job runs. No Prefect."""
