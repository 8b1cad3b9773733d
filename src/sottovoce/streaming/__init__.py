"""Features of live audio, chunk by chunk, and the same in one pass over a whole recording.

`sight.py` says what limits are and where an encoder looks along time; `live.py` carries what a stream must remember, `ears.py` its
front end; `whole.py` is the definition that streams are held to.
"""
