"""Plans: the steps of a recipe with the ids of all artifacts, before anything runs. Imports neither Ray nor torch."""
