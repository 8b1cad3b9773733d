"""Probes of a frozen encoder: features, heads, the learning-rate sweep, metrics, intervals. What the files of `tasks` are made of."""
