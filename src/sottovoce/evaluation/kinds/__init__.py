"""Base classes of evaluation tasks."""
