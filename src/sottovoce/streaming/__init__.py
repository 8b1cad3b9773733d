"""Features of live audio, chunk by chunk, and the same features in one pass over a whole recording.

`limits.py`: how far a frame may look. `frontend.py`: samples to frames. `layers.py`: the encoder's layers with limited context.
`stream.py`: `sottovoce.stream` and what it remembers between chunks. `one_pass.py`: the reference that streams are tested against.
"""
