"""Kinds of stages, one file each. See `base.Stage` for what one must say."""
