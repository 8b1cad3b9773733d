"""From an encoder in memory to a model that loads anywhere, and back."""
