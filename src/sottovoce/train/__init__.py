"""Training: recipes, the loop, stages, checkpoints."""
