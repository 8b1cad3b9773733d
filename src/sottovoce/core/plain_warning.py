"""Warnings about a user's files: worth a line, and no reason to stop."""


class PlainWarning(UserWarning):
    """Given to `warnings.warn`. The command prints it as one plain line, and not with --quiet."""
