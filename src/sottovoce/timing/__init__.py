"""Speed: `sottovoce bench` compares models, and `--fit-cost` times single parts of encoders, for latency budgets.

This file imports nothing, so that the process of a model holds only what its runtime needs.
"""
