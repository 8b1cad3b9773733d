"""Encoders prepared for inference on a CPU."""
