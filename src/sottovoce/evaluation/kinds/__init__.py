"""Kinds of evaluation tasks: the base class of all tasks, and what tasks of one kind share."""
