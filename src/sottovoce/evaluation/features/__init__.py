"""Features of a model under evaluation, computed once and kept on disk."""
