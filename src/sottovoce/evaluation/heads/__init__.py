"""Training on an encoder: probes on frozen features, text decoders, and fine-tuning of encoder and head."""
