"""What is trained on an encoder: probes on frozen features, decoders, and whole encoders with a head."""
