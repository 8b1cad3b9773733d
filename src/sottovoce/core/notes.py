"""Notes on a user's files: worth a line, and no reason to stop."""


class Note(UserWarning):
    """Given to `warnings.warn`. The command prints it as one plain line, and not with --quiet."""
