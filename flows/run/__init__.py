"""One flow run: from the recipe to the last step."""
