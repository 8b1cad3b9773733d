"""Scores, as plain functions, and their confidence intervals."""
